"""What instances and other boxes say while connections move: words for all of it, in time (`script/soak fuzz` too)."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from portfleet.core.frozen import pack, unpack
from portfleet.daemons import box_answers, handing
from portfleet.daemons.answers import read_hello
from portfleet.daemons.handing import Handing, HandingFailed
from portfleet.linux import lines
from portfleet.linux.lines import Lines, StreamEnded
from support import fuzz_relocation
from support.fuzz_relocation import FROZEN, instance


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("attempt", [fuzz_relocation.try_departure, fuzz_relocation.try_arrival])
def test_whatever_is_said_it_ends_with_words(
    attempt: Callable[[Path, random.Random], str], seed: int, directory: Path
) -> None:
    chance = random.Random(f"relocations {seed}")
    for _ in range(40):
        began = time.monotonic()
        attempt(directory, chance)
        assert time.monotonic() - began < 5


def trickle(connection: socket.socket) -> None:
    connection.recv(4096)
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)  # what the other side does: a byte now and then


def endless(connection: socket.socket) -> None:
    connection.recv(4096)
    while True:
        connection.sendall(b"x" * 4096)


def leaving(connection: socket.socket) -> None:
    connection.recv(4096)


@pytest.mark.timed
@pytest.mark.parametrize(
    ("behave", "words"), [(trickle, "no word from"), (endless, "without end"), (leaving, "has ended it")]
)
def test_an_instance_that_never_answers_is_left_in_time(
    behave: Callable[[socket.socket], None], words: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handing, "PATIENCE", 0.4)
    with instance(directory / "i.sock", behave) as place:
        began = time.monotonic()
        with pytest.raises(HandingFailed, match=words):
            Handing.to(place, fuzz_relocation.HELLO)
        assert time.monotonic() - began < 2


@pytest.mark.timed
def test_a_message_that_trickles_in_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing, "PATIENCE", 0.4)
    ours, theirs = socket.socketpair()
    with theirs:
        end = Handing(ours)
        theirs.sendall(b'{"command": "receive", "versions": [1]}\n')
        assert end.hear(read_hello)["versions"] == [1]
        theirs.sendall(b"\2\0\0\0\0\0\0\1\0\0\1\0")  # 256 bytes follow, it says
        with pytest.raises(HandingFailed, match="no word"):
            end.read()
        end.close()


@pytest.mark.timed
def test_another_box_that_takes_nothing_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_TAKEN", 0.3)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(StreamEnded, match="takes nothing"):
        Lines(ours.fileno(), ours.fileno()).say({"batch": "x" * 10**7})


@pytest.mark.parametrize(
    "said", [{"4": "fe80::1"}, {"4": 'fe80::1%eth0 device "x"'}, {"6": "192.0.2.2"}, {"4": 7}, ["4"], "4", {}]
)
def test_an_address_of_the_other_box_is_one(said: object) -> None:
    assert "does not say its address" in str(box_answers.prepared({"prepared": said}, {4}))
    assert "refuses: no room" in str(box_answers.prepared({"refused": "no room"}, {4}))


def test_what_the_kernel_cannot_hold_is_no_connection() -> None:
    for wrong in ({"mss": 1 << 31}, {"send_buffer": 1 << 31}, {"user_timeout": 1 << 31}, {"keepalive": (1, 40000, 1)}):
        with pytest.raises(ValueError, match="no socket has"):
            unpack(pack([FROZEN._replace(**wrong)]))
    with pytest.raises(ValueError, match="port 0"):
        unpack(pack([FROZEN._replace(flow=FROZEN.flow._replace(client_port=0))]))
    for length in range(1, len(pack([FROZEN]))):
        with pytest.raises(ValueError, match=r"cut off|longer"):
            unpack(pack([FROZEN])[:length])
