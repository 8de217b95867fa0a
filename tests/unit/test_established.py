"""Established connections of an instance, by its port or by what its processes have open."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from portfleet.linux import established, sockdiag
from portfleet.linux.established import Established
from support.sandbox import wait_for


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this process with three connections, whose clients are this process's too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        clients = [socket.create_connection(address) for _ in range(3)]
        served = [listener.accept()[0] for _ in clients]
        yield address[1]
        for one in (*clients, *served):
            one.close()


@pytest.mark.parametrize("few", [0, 2])
def test_a_few_ports_are_counted_as_all_are(port: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(established, "_FEW", few)
    look = Established({port})
    assert look.of(os.getpid(), port, (port, port)) == 3
    assert look.owned(os.getpid(), lambda one: one == port) == 3


def test_connections_that_came_by_another_port_of_the_service_are_an_instances_own(port: int) -> None:
    assert Established({1}).of(os.getpid(), 1, (port, port)) == 3, "handed off to it"
    assert Established({1}).of(1 << 23, 1, (port, port)) == 0, "another process's"


def test_connections_are_counted_alike_one_by_one_and_all_at_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def counts() -> tuple[int, int]:
        return sockdiag.established()[port], list(sockdiag.established_inodes().values()).count(port)

    one_by_one = len(sockdiag.of_port(port))
    assert counts() == (one_by_one, one_by_one) == (3, 3)
    monkeypatch.setattr(sockdiag, "_stride", lambda _: 0)  # as of messages that are not all as long
    assert counts() == (3, 3)


def test_connections_that_wait_are_those_in_syn_recv_and_in_the_accept_queue_of_both_families() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        assert sockdiag.waiting()[port] == 0
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)  # in SYN_RECV until the client sends data
        with socket.create_connection(("127.0.0.1", port)) as four, socket.create_connection(("::1", port)) as six:
            assert sockdiag.waiting()[port] == 2
            four.sendall(b"x")
            six.sendall(b"x")
            wait_for("both in the accept queue", lambda: _queued(port) == 2)
            assert sockdiag.waiting()[port] == 2


def _queued(port: int) -> int:
    return sum(one.queued for one in sockdiag.listeners() if one.port == port)
