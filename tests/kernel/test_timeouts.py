"""Time-outs of conntrack against TCP: what the kernel's table forgets too early resets a connection that lives.

Each state is shown twice: with a time-out below the silence the connection is lost, with the recommended one it is not.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import pytest

from portfleet.dataplane.nft.tracking import PREFIX, ROWS
from support.forms import forms
from support.plane import ECHO, Plane
from support.sandbox import HOST4, HOST6, Box, wait_for

ONE = ECHO.replace("instances = 4", "instances = 1")
RECOMMENDED = {row.name: row.value for row in ROWS}
#: Reads a line, or with "eof" all there is; answers DELAY seconds after it is told to, closes.
_SERVER = """
import socket, sys, time
delay, until = float(sys.argv[1]), sys.argv[2]
listener = socket.create_server(("::", 7100), family=socket.AF_INET6, dualstack_ipv6=True)
print("up", flush=True)
connection, _ = listener.accept()
with connection, connection.makefile("rb") as file:
    file.read() if until == "eof" else file.readline()
    print("asked", flush=True)
    sys.stdin.readline()
    time.sleep(delay)
    connection.sendall(b"the answer")
print("answered", flush=True)
time.sleep(600)
"""
#: Asks, closes its side if it is told to, and prints what it gets.
_CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7000), timeout=5)
connection.settimeout(float(sys.argv[3]))
connection.sendall(b"a question\\n")
if sys.argv[2] == "eof":
    connection.shutdown(socket.SHUT_WR)
try:
    print(connection.makefile("rb").read().decode() or "nothing")
except OSError as error:
    print(repr(error))
"""


_CUT = """
table inet cut {
  chain in {
    type filter hook input priority 0
    tcp sport { 7000, 7100 } drop
  }
}
"""


@dataclass(frozen=True)
class Silence:
    """A state, how the client gets into it, after how long (seconds) it is answered, and if it is cut off for it."""

    setting: str
    until: str
    answer_after: float
    cut_off: bool


CASES = (
    Silence("timeout_close_wait", "eof", 3, cut_off=False),
    Silence("timeout_last_ack", "eof", 0, cut_off=True),
    Silence("timeout_fin_wait", "line", 0, cut_off=True),
)


def set_all(rules: Plane, **other: int) -> None:
    """Set every recommended value, ``other`` instead of some."""
    for name, value in (RECOMMENDED | other).items():
        if value is not None:
            rules.boxes.host.sysctl(PREFIX + name, str(value))


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def heard(rules: Plane, case: Silence, host: str, *, patience: float = 9) -> str:
    """Return what a client gets; its box drops what comes from the service while it is cut off."""
    rules.load(ONE)
    clients = rules.boxes.clients
    server = rules.boxes.host.popen("python3", "-c", _SERVER, str(case.answer_after), case.until)
    try:
        assert said(server) == "up"
        client = clients.popen("python3", "-c", _CLIENT, host, case.until, str(patience))
        try:
            assert said(server) == "asked"
            if case.cut_off:
                # Otherwise it is the client that goes on sending, and that keeps the entry.
                wait_for(
                    "all that the client sent is acknowledged", lambda: "unacked:" not in _sockets(clients, "dport")
                )
                clients.run("nft", "-f", "-", text=_CUT)
            assert server.stdin is not None
            server.stdin.write("go\n")
            server.stdin.flush()
            if case.cut_off:
                assert said(server) == "answered"
                wait_for("the answer was sent again 4 times, which takes 3 s", lambda: _sent_again(rules) >= 4)
                clients.run("nft", "delete", "table", "inet", "cut")
            out, _ = client.communicate(timeout=patience + 5)
            return out.strip()
        finally:
            client.kill()
            client.wait()
    finally:
        server.kill()
        server.wait()


def _sent_again(rules: Plane) -> int:
    """Return how often in a row the server's kernel has sent again what was not acknowledged."""
    return max(map(int, re.findall(r"backoff:(\d+)", _sockets(rules.boxes.host, "sport"))), default=0)


def _sockets(box: Box, end: str) -> str:
    """Return what the kernel tells of the box's TCP sockets with a port of the service at one end."""
    ports = [end, "=", ":7000", "or", end, "=", ":7100"]
    return box.run("ss", "-tinH", "state", "all", *ports).stdout


@pytest.mark.parametrize("host", forms([HOST4, HOST6]), ids=["v4", "v6"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.setting)
def test_a_connection_outlives_what_tcp_allows(rules: Plane, case: Silence, host: str) -> None:
    set_all(rules)
    assert heard(rules, case, host) == "the answer"


# Not of FIN_WAIT: data that is sent again without the end makes CLOSE_WAIT of it, so that it is seldom for long.
@pytest.mark.parametrize("case", forms(CASES[:2]), ids=lambda case: case.setting)
def test_too_short_a_time_out_is_what_would_lose_it(rules: Plane, case: Silence) -> None:
    """What the table is for: if this fails, the kernel forgets nothing and the setting is not needed."""
    set_all(rules, **{case.setting: 1})
    assert heard(rules, case, HOST4) != "the answer"


@pytest.mark.full
@pytest.mark.parametrize("host", [HOST4, HOST6], ids=["v4", "v6"])
def test_an_answer_70_seconds_after_a_half_close(rules: Plane, host: str) -> None:
    set_all(rules)
    assert heard(rules, Silence("timeout_close_wait", "eof", 70, cut_off=False), host, patience=90) == "the answer"
