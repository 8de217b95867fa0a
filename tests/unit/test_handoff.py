"""The tool's side of a hand-off: whatever the sender says, it ends in a number or in words."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from portfleet.core.desired import DesiredInstance
from portfleet.daemons import handoff
from portfleet.daemons.handoff import HandoffFailed, hand_off
from support.fleets import desired

PROGRESS = {"ok": True, "event": "progress", "moved": 3, "remaining": 7, "connections": [["192.0.2.1", 1, "x", 2]]}


def line(**changes: object) -> bytes:
    return json.dumps(PROGRESS | changes).encode() + b"\n"


def handed(tmp_path: Path, *said: bytes, count: int = 10, then: str = "goes") -> tuple[int, dict[str, object]]:
    """Hand off from an instance that answers with ``said`` and then goes, "stays", or "repeats" the last of it.

    Return how many moved, and the request.
    """
    sender, receiver = instances(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sender.control))
        listener.listen()
        asked: list[bytes] = []

        def answer() -> None:
            with suppress(OSError), listener.accept()[0] as connection:
                asked.append(connection.recv(4096))
                for part in said:
                    connection.sendall(part)
                while then == "repeats":
                    connection.sendall(said[-1])
                    time.sleep(0.02)  # the pace of its lines; nothing waits for it
                if then == "stays":
                    connection.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            moved = asyncio.run(hand_off(sender, receiver, pids={sender.name: os.getpid()}, count=count))
        finally:
            thread.join(10)
    return moved, json.loads(asked[0])


def instances(tmp_path: Path) -> tuple[DesiredInstance, DesiredInstance]:
    first, second, *_ = desired().services["echo"].instances
    assert first.program is not None
    return replace(first, program=replace(first.program, control=str(tmp_path / "s"))), second


def test_the_last_line_says_how_many_moved(tmp_path: Path) -> None:
    moved, request = handed(tmp_path, line(), line(moved=9, event="done"))
    assert moved == 9
    assert request["command"] == "handoff" and request["to"] == "/h/run/echo-blue-2.sock" and request["count"] == 10


def test_no_more_is_believed_than_was_asked_for(tmp_path: Path) -> None:
    assert handed(tmp_path, line(moved=10**12, event="done"))[0] == 10


@pytest.mark.parametrize(
    ("said", "words", "moved"),
    [
        ([line(), line(ok=False, error="no\x1b[2J room", moved=4)], "no?[2J room", 4),
        ([line()], "closed its control socket in the middle", 3),
        ([], "closed its control socket in the middle", 0),
        ([line(), b'{"ok": true}\n'], "does not answer properly: event is missing", 3),
        ([line(), line(moved=-1)], "moved is -1", 3),
        ([line(moved="9" * 400)], "moved is '999", 0),
        ([b"[" * 60_000 + b"\n"], "no JSON object", 0),
        ([b"x" * 200_000], "limit", 0),
    ],
)
def test_whatever_else_it_says_ends_it_with_words(tmp_path: Path, said: list[bytes], words: str, moved: int) -> None:
    with pytest.raises(HandoffFailed) as caught:
        handed(tmp_path, *said)
    assert words in str(caught.value) and str(caught.value).startswith("echo-blue-1 to echo-blue-2: ")
    assert str(caught.value).isprintable() and caught.value.moved == moved and not caught.value.busy


def test_silence_ends_it_and_so_does_talking_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "_SILENT", 0.1)
    with pytest.raises(HandoffFailed, match=r"no word for 0\.1 s, one of them hangs"):
        handed(tmp_path, line(), then="stays", count=100_000)
    (tmp_path / "s").unlink()
    monkeypatch.setattr(handoff, "_EACH", 0.0)
    monkeypatch.setattr(handoff, "_SILENT", 1.0)
    with pytest.raises(HandoffFailed, match="not done within 1 s"):
        handed(tmp_path, line(), then="repeats")


def test_who_does_not_run_or_whose_socket_is_another_process_is_not_asked(tmp_path: Path) -> None:
    sender, receiver = instances(tmp_path)
    ours = {sender.name: os.getpid()}
    assert "does not run" in _failure(sender, receiver, {})
    assert "ENOENT" in (said := _failure(sender, receiver, ours)) or "No such file" in said
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sender.control))
        listener.listen()
        assert f"process {os.getpid()} has it" in _failure(sender, receiver, {sender.name: 1 << 22})


def _failure(sender: DesiredInstance, receiver: DesiredInstance, pids: dict[str, int]) -> str:
    with pytest.raises(HandoffFailed) as caught:
        asyncio.run(hand_off(sender, receiver, pids=pids, count=1))
    return str(caught.value)
