"""Connections of probes leave the kernel's table when they end; those of others, and later ones, stay."""

from __future__ import annotations

import sys

from support.sandbox import sandbox

_FORGET = """
import socket, struct, subprocess
from pathlib import Path
from portfleet.dataplane.nft.conntrack import Forgetter
from portfleet.linux.listening import LOOPBACK
from portfleet.linux.sockdiag import Ends
subprocess.run(["nft", "add table inet t; add chain inet t i { type filter hook input priority 0; }; "
    "add rule inet t i ct state new counter"], check=True)
def entries(): return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
    server, found = socket.create_server((host, 0), family=family), {}
    port, address, before = server.getsockname()[1], LOOPBACK[host], entries()
    for how in ("reset", "end", "stays"):
        found[how] = client = socket.create_connection((host, port))
        taken = server.accept()[0]
        ends = Ends(address, client.getsockname()[1], address, port)
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            client.close()
        elif how == "end":
            client.shutdown(socket.SHUT_WR)
            taken.close()
            assert client.recv(1) == b""
            client.close()
        found[how] = ends, client, taken
    assert entries() == before + 3, entries()
    forgetter = Forgetter()
    forgetter.forget([found["reset"][0]])
    assert entries() == before + 2, "reset"
    forgetter.forget([found[how][0] for how in found])
    assert entries() == before + 1, "one goes on"
    found["stays"][1].sendall(b"x")
    assert found["stays"][2].recv(1) == b"x"
print("forgotten")
"""


def test_entries_of_ended_connections_alone_are_forgotten() -> None:
    with sandbox() as boxes:
        assert boxes.host.run(sys.executable, "-c", _FORGET).stdout == "forgotten\n"


#: Two threads that take each other's answers wait for ever.
_TOGETHER = """
import socket, struct, subprocess, threading
from pathlib import Path
from portfleet.dataplane.nft.conntrack import Forgetter
from portfleet.linux.listening import LOOPBACK
from portfleet.linux.sockdiag import Ends
subprocess.run(["nft", "add table inet t; add chain inet t i { type filter hook input priority 0; }; "
    "add rule inet t i ct state new counter"], check=True)
def entries(): return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
server, address, forgetter = socket.create_server(("127.0.0.1", 0), backlog=2000), LOOPBACK["127.0.0.1"], Forgetter()
port = server.getsockname()[1]
def ended():
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        return Ends(address, client.getsockname()[1], address, port)
before = entries()
parts = [[[ended() for _ in range(5)] for _ in range(100)] for _ in range(2)]
together = threading.Barrier(2)
def forget(part):
    together.wait()
    for some in part:
        forgetter.forget(some)
threads = [threading.Thread(target=forget, args=(part,), daemon=True) for part in parts]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
print(sum(thread.is_alive() for thread in threads), entries() - before)
"""


def test_threads_forget_side_by_side() -> None:
    with sandbox() as boxes:
        assert boxes.host.run(sys.executable, "-c", _TOGETHER).stdout == "0 0\n"
