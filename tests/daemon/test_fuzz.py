"""A short run of each fuzzer: the daemon neither ends nor hangs, keeps no memory or descriptor, and serves on.

PORTFLEET_FUZZ_SEED and PORTFLEET_FUZZ_NUMBER (`script/soak fuzz`) make it another, and longer.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from portfleet_daemon.framing import FRAMINGS
from support import fuzz
from support.daemons import Client, Daemon, Daemons, wait_for

SEED, NUMBER = int(os.environ.get("PORTFLEET_FUZZ_SEED", "1")), int(os.environ.get("PORTFLEET_FUZZ_NUMBER", "400"))
#: Raises the built-in exception whose number it is asked for, at once or (a negative one) from a coroutine.
RAISING = """
import builtins
FOUND = sorted(vars(builtins).items())
KINDS = [kind for _, kind in FOUND if isinstance(kind, type) and issubclass(kind, BaseException)]
async def later(number):
    raise KINDS[number % len(KINDS)]("asked for")
def respond(request):
    number = int(request)
    if number < 0:
        return later(number)
    raise KINDS[number % len(KINDS)]("asked for")
"""
RECEIVE = b'{"command": "receive", "versions": [1, 2], "framing": "line", "stateful": false}\n'


def tell(what: str) -> None:
    """Print how many of a kind the daemon was given, which did it no harm."""
    print(f"{what}: {NUMBER:,}")


@pytest.fixture
def unharmed(daemons: Daemons, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon that must look afterwards as it did before."""
    daemon = daemons.start("--framing", getattr(request, "param", "line"), "--max-request", "3000")
    memory, descriptors = daemon.rss(), len(os.listdir(f"/proc/{daemon.pid}/fd"))
    yield daemon
    assert daemon.process.poll() is None
    daemon.ask(command="resume")
    daemon.ask(command="evict", rate=1e6)
    assert daemon.until(connections=0)["ok"]
    assert "Traceback" not in daemon.log
    assert daemon.rss() - memory < 4_000_000
    wait_for(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= descriptors, "all descriptors closed")


@pytest.mark.parametrize("unharmed", FRAMINGS, indirect=True)
def test_framings(unharmed: Daemon, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["unharmed"]
    for number, stream in enumerate(fuzz.streams(name, seed=SEED, number=NUMBER)):
        with unharmed.connect() as client, suppress(ConnectionError):
            client.send(stream)
            client.sock.shutdown(socket.SHUT_WR)
            while client.sock.recv(65536):  # to the end, or the time-out of the socket fails the test
                pass
        if number % 50 == 0:
            assert unharmed.status()["ok"]
    tell(f"framing {name}")


def test_control_lines(unharmed: Daemon) -> None:
    with unharmed.connect() as bystander:
        for line in fuzz.control_lines(seed=SEED, number=NUMBER):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(unharmed.control)
                with suppress(ConnectionError):  # a line over the limit closes it
                    sock.sendall(line + b"\n")
                    sock.shutdown(socket.SHUT_WR)
                    for answer in sock.makefile("rb"):
                        assert isinstance(json.loads(answer)["ok"], bool), line[:200]
            unharmed.ask(command="resume")  # also ends an eviction that was asked for
            with suppress(ConnectionError):
                bystander.ask(b"x\n")
    tell("control socket of a daemon")


def test_handoff_lines(unharmed: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for number, (data, count) in enumerate(fuzz.handoff_messages(seed=SEED, number=NUMBER)):
            pairs = [(socket.create_connection(listener.getsockname()), listener.accept()[0]) for _ in range(count)]
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(unharmed.control)
                sock.sendall(RECEIVE)
                assert json.loads(sock.recv(4096))["ok"]
                socket.send_fds(sock, [data], [theirs.fileno() for _, theirs in pairs])
                with suppress(ConnectionError):
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(4096):  # answers, then the receiver's end
                        pass
            for client, theirs in pairs:
                theirs.close()
                with Client(client):
                    pass
            if number % 50 == 0:
                with unharmed.connect() as bystander:
                    assert bystander.ask(b"x\n") == b"x\n"
    tell("hand-off lines")


def test_handlers(daemons: Daemons) -> None:
    (daemons.directory / "raising_any.py").write_text(RAISING)
    daemon = daemons.start(handler="raising_any:respond")
    chance = random.Random(f"handlers {SEED}")
    for number in range(NUMBER):
        with daemon.connect() as client, suppress(ConnectionError):
            asked = [chance.randrange(-200, 200) for _ in range(chance.randrange(1, 4))]
            client.send("".join(f"{one}\n" for one in asked).encode() + b"x\n" * chance.randrange(2))
            client.sock.shutdown(socket.SHUT_WR)
            while client.sock.recv(65536):
                pass
        if number % 50 == 0:
            assert daemon.status()["ok"]
    assert daemon.process.poll() is None and daemon.status()["errors"] >= NUMBER
    tell("handlers' exceptions")


def test_the_same_seed_gives_the_same_inputs() -> None:
    assert list(fuzz.control_lines(seed=3, number=20)) == list(fuzz.control_lines(seed=3, number=20))
    assert list(fuzz.handoff_messages(seed=3, number=20)) != list(fuzz.handoff_messages(seed=4, number=20))
