"""What connections outlive, shown on the kernel of a VM: run in it as root, with the fleet of the Vagrantfile serving.

Clients in a network of their own hold connections to the box's second address of each family. Its first addresses go,
conntrack's table is flushed three times, an instance hands its connections off, and the table is flushed again: after
each of these every connection answers. Standard library only; ends with 1 if one does not.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_NEWNET = 0x40000000  # CLONE_NEWNET, setns(2)
_CLIENTS = 40
_FIRST, _SECOND = ("192.0.2.1/24", "2001:db8::1/64"), ("192.0.2.10", "2001:db8::10")
#: Seconds in which a connection must answer: what was sent into a flushed table is sent again (tcp(7), retransmission).
_PATIENCE = 30.0


def run(*command: str) -> None:
    """Run a command; raises CalledProcessError."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def network() -> Iterator[None]:
    """Have a box of clients, whose network is called "clients", beside this one, which gets two addresses a family."""
    run("ip", "netns", "add", "clients")
    try:
        run("ip", "link", "add", "to-clients", "type", "veth", "peer", "name", "to-box", "netns", "clients")
        run("sysctl", "-qw", "net.ipv4.conf.to-clients.promote_secondaries=1")
        for address in (*_FIRST, f"{_SECOND[0]}/24", f"{_SECOND[1]}/64"):
            run("ip", "addr", "add", address, "dev", "to-clients", *(["nodad"] if ":" in address else []))
        run("ip", "link", "set", "to-clients", "up")
        inside = ("ip", "-n", "clients")
        run(*inside, "link", "set", "to-box", "up")
        for number in range(_CLIENTS):
            run(*inside, "addr", "add", f"192.0.2.{101 + number}/24", "dev", "to-box")
            run(*inside, "addr", "add", f"2001:db8::{101 + number}/64", "dev", "to-box", "nodad")
        yield
    finally:
        run("ip", "netns", "del", "clients")


@contextmanager
def among_clients() -> Iterator[None]:
    """Have sockets that are made within the block be in the clients' network."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as own, Path("/run/netns/clients").open() as theirs:
        if libc.setns(theirs.fileno(), _NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(own.fileno(), _NEWNET)


def held() -> list[socket.socket]:
    """Return connections from each client's addresses to the box's second ones."""
    with among_clients():
        return [
            socket.create_connection((box, 7000), _PATIENCE, (f"{prefix}{101 + number}", 0))
            for box, prefix in zip(_SECOND, ("192.0.2.", "2001:db8::"), strict=True)
            for number in range(_CLIENTS)
        ]


def talk(connections: Sequence[socket.socket], words: str) -> None:
    """Demand an answer on each connection, and say which instances answered."""
    for connection in connections:
        connection.settimeout(_PATIENCE)
        connection.sendall(b"hello\n")
    answers = Counter(connection.recv(100).decode().split()[0] for connection in connections)
    print(f"{words}: {answers.total()} of {len(connections)} answer, {dict(sorted(answers.items()))}", flush=True)


def flush(connections: Sequence[socket.socket], words: str) -> None:
    """Flush conntrack's table three times; every connection answers after each."""
    for number in (1, 2, 3):
        run("conntrack", "-F")
        talk(connections, f"{words}, flush {number}")


def main() -> None:
    print(f"Linux {os.uname().release}")
    with network():
        connections = held()
        talk(connections, "at first")
        for address in _FIRST:
            run("ip", "addr", "del", address, "dev", "to-clients")
        talk(connections, "without the first addresses")
        flush(connections, "all instances serve")
        run("portfleet", "drain", "echo/1", "--handoff")
        talk(connections, "echo/1 has handed off its connections")
        flush(connections, "echo/1 is drained")
        run("portfleet", "undrain", "echo/1")


if __name__ == "__main__":
    main()
