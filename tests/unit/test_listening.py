"""The kernel tells of a listener what a connection to it would."""

from __future__ import annotations

import socket

import pytest

from portfleet.linux.listening import Listening


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        (("127.0.0.1", socket.AF_INET), {"127.0.0.1"}),
        (("0.0.0.0", socket.AF_INET), {"127.0.0.1"}),
        (("::", socket.AF_INET6), {"127.0.0.1", "::1"}),
        (("::1", socket.AF_INET6), {"::1"}),
    ],
)
def test_it_is_found_by_the_addresses_that_reach_it(
    address: tuple[str, socket.AddressFamily], reached: set[str]
) -> None:
    host, family = address
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as server:
        port = server.getsockname()[1]
        assert {host for host in ("127.0.0.1", "::1", "192.0.2.1") if Listening().takes(host, port)} == reached


def test_it_takes_only_while_none_waits_and_it_listens() -> None:
    listening = Listening()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listening.takes("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)):
            assert not listening.takes("127.0.0.1", port)
            server.accept()[0].close()
            assert listening.takes("127.0.0.1", port)
    assert not listening.takes("127.0.0.1", port)


def test_what_is_bound_or_connected_does_not_listen() -> None:
    with socket.socket() as bound, socket.create_server(("127.0.0.1", 0)) as server:
        bound.bind(("127.0.0.1", 0))
        bound.connect(server.getsockname())
        assert not Listening().takes("127.0.0.1", bound.getsockname()[1])
