"""PROXY protocol version 2: behind HAProxy a daemon knows its clients, also after a hand-off, and no header hurts."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket

import pytest

from portfleet_daemon.handoff.wire import Parcel, pack_parcels, unpack_parcels
from portfleet_daemon.proxy import LONGEST, PEER, HeaderError, read_peer, read_start, unpack_peer
from support.daemons import Daemon, Daemons, wait_for

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL = SIGNATURE + b"\x20\0\0\0"
#: As HAProxy 2.6 sent it: 198.18.0.7 port 25121 to 192.0.2.1 port 7021.
FROM_HAPROXY = bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 000c c6120007 c0000201 6221 1b6d")
HANDLER = """
class Peers:
    def __init__(self): pass
    def request(self, conn, data): return repr(conn.peer).encode()
    def export_state(self, conn): return b""
    def import_state(self, conn, state): pass
"""


def header(address: str, port: int, *, more: bytes = b"") -> bytes:
    """Return the header that names a client."""
    source = ipaddress.ip_address(address).packed
    body = source * 2 + port.to_bytes(2, "big") + b"\x1b\x58" + more
    return SIGNATURE + (b"\x21\x11" if len(source) == 4 else b"\x21\x21") + len(body).to_bytes(2, "big") + body


def read(data: bytes) -> bytes:
    start = read_start(data[:16])
    return read_peer(start, data[16 : 16 + start.length])


def test_a_header_of_haproxy_is_read() -> None:
    assert unpack_peer(read(FROM_HAPROXY)) == ("198.18.0.7", 25121)
    assert unpack_peer(read(header("2001:db8::7", 9, more=b"\x04\0\1x"))) == ("2001:db8::7", 9)
    assert read(LOCAL) == b""
    assert read(SIGNATURE + b"\x21\x00\0\0") == b""  # a proxy that does not know


@pytest.mark.parametrize(
    "wrong",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        SIGNATURE + b"\x11\x11\0\x0c",
        SIGNATURE + b"\x22\x11\0\x0c",
        SIGNATURE + b"\x21\x11" + (LONGEST + 1).to_bytes(2, "big"),
        SIGNATURE + b"\x21\x11\0\x04abcd",
        SIGNATURE + b"\x21\x21\0\x0c" + bytes(12),
    ],
)
def test_what_is_no_header_is_refused(wrong: bytes) -> None:
    with pytest.raises(HeaderError):
        read(wrong)


def test_records_name_clients_from_version_2_on() -> None:
    peer = PEER.pack(4, socket.inet_aton("198.18.0.7") + bytes(12), 25121)
    parcels = [Parcel(partial=b"PI", peer=peer), Parcel(peer=peer), Parcel()]
    assert unpack_parcels(pack_parcels(parcels, version=2), 3, version=2) == parcels
    unnamed = [Parcel(partial=b"PI"), Parcel(), Parcel()]
    assert unpack_parcels(pack_parcels(parcels, version=1), 3, version=1) == unnamed


@pytest.fixture
def proxied(daemons: Daemons) -> Daemon:
    (daemons.directory / "peers.py").write_text(HANDLER)
    return daemons.start("--proxy-protocol", handler="peers:Peers")


def test_a_handler_sees_the_client_whom_the_header_names(proxied: Daemon) -> None:
    with proxied.connect() as client:
        for byte in FROM_HAPROXY + b"who\n":  # however it comes
            client.send(bytes([byte]))
        assert client.line() == b"('198.18.0.7', 25121)\n"
    with proxied.connect() as client:
        assert client.ask(header("2001:db8::7", 9) + b"who\n") == b"('2001:db8::7', 9)\n"
    with proxied.connect() as client:
        assert client.ask(LOCAL + b"who\n").startswith(b"('127.0.0.1', ")


def test_the_client_is_known_after_a_hand_off(proxied: Daemon, daemons: Daemons) -> None:
    other = daemons.start("--proxy-protocol", handler="peers:Peers")
    clients = [proxied.connect() for _ in range(300)]
    for number, client in enumerate(clients):
        assert client.ask(header("198.18.0.7", number + 1) + b"who\n") == f"('198.18.0.7', {number + 1})\n".encode()

    last = proxied.stream(command="handoff", to=other.control)[-1]

    assert (last["ok"], last["moved"]) == (True, 300)
    for number, client in enumerate(clients):
        assert client.ask(b"who\n") == f"('198.18.0.7', {number + 1})\n".encode()
        client.sock.close()
    other.until(connections=0)


def test_plain_connections_keep_the_client_over_two_hand_offs(daemons: Daemons) -> None:
    first, second = (daemons.start("--proxy-protocol") for _ in range(2))
    with first.connect() as client:
        assert client.ask(FROM_HAPROXY + b"a\n") == b"a\n"
        for giver, taker in ((first, second), (second, first)):
            assert giver.stream(command="handoff", to=taker.control)[-1]["moved"] == 1
            assert client.ask(b"b\n") == b"b\n"


def test_hostile_headers_end_their_connection_alone(proxied: Daemon) -> None:
    chance = random.Random(7)
    good = header("198.18.0.7", 7)
    with proxied.connect() as witness:
        witness.send(good)
        for _ in range(300):
            data = bytearray(good + b"who\n")
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            with proxied.connect() as client, contextlib.suppress(OSError):  # closed, and reset, at any byte
                client.send(bytes(data[: chance.randrange(1, len(data) + 1)]))
                client.sock.shutdown(socket.SHUT_WR)
                while client.sock.recv(4096):
                    pass
        assert witness.ask(b"who\n") == b"('198.18.0.7', 7)\n"
    assert proxied.process.poll() is None
    wait_for(lambda: proxied.status()["connections"] == 0, "every connection has ended")


def test_one_that_says_nothing_is_closed(proxied: Daemon) -> None:
    with proxied.connect() as client:
        client.send(SIGNATURE[:5])
        assert client.closed()
    assert "no header within 5 s" in proxied.log
