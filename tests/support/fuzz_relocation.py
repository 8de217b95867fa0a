"""Relocations from a seed in which an instance, or the other box, says what is damaged: proper, with values made wrong.

Nothing moves: whatever both ends say, the one in between has words for it, soon, and keeps no descriptor.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from portfleet.core.errors import PortfleetError
from portfleet.core.frozen import Flow, Frozen, pack
from portfleet.daemons.arrival import Arrival
from portfleet.daemons.copies import Copies
from portfleet.daemons.departure import Departure
from portfleet.daemons.exchange import Control
from portfleet.linux.lines import Lines
from portfleet_daemon.handoff import wire
from portfleet_daemon.handoff.wire import Kind, Parcel, pack_parcels
from support.fuzz import NUMBERS, mutated
from support.fuzz_state import damaged, text_of

HELLO = {"command": "receive", "versions": [1, 2], "framing": "line", "stateful": False, "instance": "echo-blue-1"}
HERE = bytes([127, 0, 0, 1])
AGREED = {"ok": True, "version": 2, "room": 19936}
FLOW = Flow(bytes([127, 0, 0, 9]), 40001, HERE, 7000, HERE, 7101)
FROZEN = Frozen(
    flow=FLOW, mss=1448, sack=True, send_scale=7, receive_scale=7, scaled=True, timestamps=True, timestamp=77,
    microseconds=False, window=(1, 2, 3, 4, 5), receive_first=1, send_first=1, received=b"hi", sent=b"", unsent=b"",
    nodelay=True, keepalive=(420, 30, 3), user_timeout=0, send_buffer=16384, receive_buffer=65536,
)  # fmt: skip
#: What the other box answers to the lines of a departure, in order; and says to an arrival.
BOX: tuple[dict[str, Any], ...] = (
    {"relocate": 2}, AGREED, {"prepared": {"4": "192.0.2.2"}}, {"done": 1}, {"refused": "no room"}, {"failed": "lost"},
    {"known": [True]},
)  # fmt: skip
TOLD: tuple[dict[str, Any], ...] = (
    {"receive": HELLO}, {"batch": b64encode(pack([FROZEN])).decode(), "records": "AAAAAAAAAAAAAAAAAAAAAA=="},
    {"known": [["7f000009", 40001], None]}, {"commit": True, "without": [0]}, {"abandon": "no"}, {"end": True},
)  # fmt: skip


class Kept:
    """A data plane's part of which nothing comes: no connection is one that could move, or be let in."""

    def flow(self, *_: object) -> Flow | None:
        return FLOW

    def hold(self, *_: object, **__: object) -> None:
        raise PortfleetError("no")

    def nothing(self, *_: object) -> None:
        return None

    prolong = hold
    release = forward = take_back = dismiss = nothing

    def reach(self, _: str) -> str:
        return "no"

    def admit(self, *_: object) -> None:
        raise PortfleetError("no")


def line(proper: object, chance: random.Random) -> bytes:
    """Return a line, one of three as it should be; each ends, as one that does not is waited for (6 s)."""
    if not chance.randrange(3):
        return json.dumps(proper).encode() + b"\n"
    text = text_of(damaged(proper, chance), chance).encode()
    return (mutated(text, chance) if not chance.randrange(3) else text) + b"\n"


def messages(chance: random.Random) -> Iterator[tuple[bytes, int]]:
    """Yield what a daemon sends in a hand-off, mostly connections, and how many descriptors go with it."""
    for _ in range(chance.randrange(4)):
        count = chance.choice((0, 1, 1, 2))
        body = pack_parcels([Parcel(partial=chance.randbytes(3), unsent=b"") for _ in range(count)], version=2)
        kind = chance.choice((Kind.CONNECTIONS, Kind.CONNECTIONS, *Kind))
        data = wire.pack(kind, count=chance.choice((count, count, *NUMBERS[:2])), sequence=1, body=body)
        yield (mutated(data, chance) if not chance.randrange(3) else data) or b"\0", count


@contextmanager
def instance(path: Path, behave: Callable[[socket.socket], None]) -> Iterator[Control]:
    """Have an instance's control socket at ``path``, with whose connections ``behave`` does as it likes."""
    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen()

        def talk(connection: socket.socket) -> None:
            with suppress(OSError), connection:
                behave(connection)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield Control(str(path), os.getpid())
        listener.shutdown(socket.SHUT_RDWR)
    serving.join(10)


@contextmanager
def other_box(said: Sequence[bytes]) -> Iterator[Lines]:
    """Have another box that says ``said``, listens until this end is done, and ends."""
    ours, theirs = socket.socketpair()

    def speak() -> None:
        with theirs, suppress(OSError):
            for data in said:
                theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            while theirs.recv(65536):
                pass

    speaking = threading.Thread(target=speak, daemon=True)
    speaking.start()
    with ours:
        yield Lines(ours.fileno(), ours.fileno())
    speaking.join(10)


def handing_off(chance: random.Random) -> Callable[[socket.socket], None]:
    """Return an instance that hands off when it is told to, badly."""
    hello, sent, wrong = line(HELLO, chance), list(messages(chance)), chance.randrange(12)

    def behave(connection: socket.socket) -> None:
        request = json.loads(connection.recv(65536).partition(b"\n")[0])
        if request["command"] == "receive":  # it gets back what cannot move
            take(connection, chance)
            return
        if not wrong:
            connection.sendall(line({"ok": False, "error": "no"}, chance))
            return
        with socket.socket(socket.AF_UNIX) as calling, socket.create_server(("127.0.0.1", 0)) as port:
            calling.settimeout(10)
            calling.connect(request["to"])
            calling.sendall(hello)
            calling.recv(65536)
            for data, count in sent:
                with socket.create_connection(port.getsockname()) as client, port.accept()[0] as accepted:
                    socket.send_fds(calling, [data], [accepted.fileno(), client.fileno()][:count])
            calling.shutdown(socket.SHUT_WR)
            while calling.recv(65536):
                pass

    return behave


def receiving(chance: random.Random) -> Callable[[socket.socket], None]:
    """Return an instance that takes connections, badly."""

    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        take(connection, chance)

    return behave


def take(connection: socket.socket, chance: random.Random) -> None:
    """Agree to take connections, and acknowledge; what is damaged ends it, as the rest of it is waited for (6 s)."""
    connection.sendall(line(AGREED, chance))
    proper = wire.pack(Kind.ACK, count=1, sequence=1, body=b"")
    while connection.recv(65536):
        ack = mutated(proper, chance)
        connection.sendall(ack)
        if ack != proper:
            break


def try_departure(folder: Path, chance: random.Random) -> str:
    """Move connections of such an instance to such a box; return why nothing moved. AssertionError if that has none."""
    said = [line(proper, chance) if place else json.dumps(proper).encode() + b"\n" for place, proper in enumerate(BOX)]
    with instance(folder / "i.sock", handing_off(chance)) as place, other_box(said) as stream:
        departure = Departure(place, lambda: stream, Kept(), meeting=folder / "m.sock", stopped=lambda: False)
        found = departure.run(9, lambda _: None)
    assert found.moved == 0 and found.why.isprintable() and len(found.why) < 600, found
    assert all(reason.isprintable() for reason in found.stayed), found
    return found.why


def try_arrival(folder: Path, chance: random.Random) -> str:
    """Take in what such a box sends, for such an instance; return why it ended. AssertionError if it has no words."""
    said = [line(proper, chance) for proper in TOLD]
    with instance(folder / "i.sock", receiving(chance)) as place, other_box(said) as stream:
        why = Arrival(place, 7101, stream, Kept(), Copies()).run()
    assert why.isprintable() and len(why) < 600, why
    return why
