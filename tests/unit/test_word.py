"""The watcher's word: what a command takes of it, and that without it, or with a wrong one, it looks itself."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portfleet import __version__
from portfleet.apply import word
from portfleet.apply.look import Look
from portfleet.apply.word import Word, of_watcher
from portfleet.core.observed import ObservedInstance
from portfleet.core.paths import Paths, resolve
from portfleet.core.status import DaemonState, Status
from portfleet.store import atomic
from portfleet.store.directories import make_directories
from portfleet.supervise.supervisor import ProgramInfo
from support.fleets import ECHO, desired

WELL = {"a-blue-1": {"pid": 7, "said": [3, 100, [1, 2]]}, "a-blue-2": {"pid": 8, "said": None}}
WORDS = {
    "a-blue-1": Word(7, Status(DaemonState.READY, 3, 100, frozenset({1, 2}))),
    "a-blue-2": Word(8, None),
}
Answer = Callable[[dict[str, Any]], bytes | None]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = resolve(home=str(tmp_path), config=None)
    make_directories(found)
    atomic.write(found.applied, b"")
    return found


@pytest.fixture
def watcher(paths: Paths) -> Iterator[Callable[[Answer], None]]:
    """What sets how a watcher answers each request; None: not at all."""
    answers: list[Answer] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(paths.watch_socket))
    listener.listen()

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as file:
                for line in file:
                    if line == b"end\n":
                        return
                    if (data := answers[0](json.loads(line))) is not None:
                        connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    yield answers.append
    with socket.socket(socket.AF_UNIX) as last:
        last.connect(str(paths.watch_socket))
        last.sendall(b"end\n")
    thread.join(10)
    listener.close()


def told(paths: Paths, found: dict[str, Any], **changes: Any) -> bytes:
    """Return a proper answer but for ``changes``."""
    config = atomic.version(paths.applied)
    answer = {"ok": True, "version": __version__, "config": config, "well": found, "next": None}
    return json.dumps(answer | changes).encode() + b"\n"


def test_its_word_is_taken_from_as_many_answers_as_there_are(paths: Paths, watcher: Callable[[Answer], None]) -> None:
    def answer(request: dict[str, Any]) -> bytes:
        assert request["command"] == "well"
        name = ("a-blue-1", "a-blue-2")[request["after"] // 64]
        return told(paths, {name: WELL[name]}, next=64 if request["after"] == 0 else None)

    watcher(answer)
    assert of_watcher(paths) == WORDS


def test_one_without_a_process_is_not_well(paths: Paths, watcher: Callable[[Answer], None]) -> None:
    watcher(lambda _: told(paths, {"a-blue-1": {"pid": None, "said": None}}))
    assert of_watcher(paths) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "0.0.1"},
        {"config": [1, 2]},
        {"ok": False},
        {"next": 0},
        {"more": 1},
        {"well": {"a-blue-1": {"pid": "7", "said": None}}},
        {"well": {"a-blue-1": {"pid": 7, "said": [3, 100]}}},
        {"well": [7]},
    ],
)
def test_one_of_another_version_or_config_or_that_says_something_else_has_none(
    paths: Paths, watcher: Callable[[Answer], None], changes: dict[str, Any]
) -> None:
    watcher(lambda _: told(paths, WELL, **changes))
    assert of_watcher(paths) == {}


@pytest.mark.parametrize("data", [b"no JSON\n", b'{"ok": false, "error": "unknown command"}\n', b"[" * 100_000 + b"\n"])
def test_one_that_does_not_know_the_question_has_none(
    paths: Paths, watcher: Callable[[Answer], None], data: bytes
) -> None:
    watcher(lambda _: data)
    assert of_watcher(paths) == {}


def test_one_that_hangs_has_none_and_is_not_waited_for_long(
    paths: Paths, watcher: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word, "_PATIENCE", 0.1)
    watcher(lambda _: None)
    assert of_watcher(paths) == {}


def test_without_a_watcher_there_is_none(paths: Paths) -> None:
    assert of_watcher(paths) == {}


@pytest.fixture
def listening() -> Iterator[int]:
    """A port on which this process listens, as a daemon of both families does."""
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::", 0))
        listener.listen()
        yield listener.getsockname()[1]


def looked_at(paths: Paths, port: int, words: dict[str, Word], *, families: str = ":7000") -> ObservedInstance:
    """Return what a look finds of an instance that is this process, by some word of the watcher."""
    made = desired(ECHO.replace(":7000", families))
    service = made.services["echo"]
    want = replace(service.instances[0], rule=replace(service.instances[0].rule, port=port))
    programs = {want.name: ProgramInfo(want.name, "RUNNING", os.getpid(), 1, 0, 0, "")}
    return Look(programs, paths, probe=False, word=words).at([(service, want)])[want.name]


def test_a_look_by_its_word_finds_what_one_without_it_finds(paths: Paths, listening: int) -> None:
    own = looked_at(paths, listening, {})
    assert own.ready
    assert looked_at(paths, listening, {"echo-blue-1": Word(os.getpid(), None)}) == own


def test_what_it_says_of_an_instance_is_taken_without_asking_that(paths: Paths, listening: int) -> None:
    said = Status(DaemonState.READY, 5, 100)
    found = looked_at(paths, listening, {"echo-blue-1": Word(os.getpid(), said)})
    assert (found.ready, found.connections, found.status) == (True, 5, said)


def test_its_word_for_an_earlier_process_does_not_count(paths: Paths, listening: int) -> None:
    said = Status(DaemonState.READY, 5, 100)
    assert looked_at(paths, listening, {"echo-blue-1": Word(1 << 22, said)}).status is None


def test_one_that_does_not_listen_is_not_well_whatever_it_says(paths: Paths) -> None:
    found = looked_at(paths, 1, {"echo-blue-1": Word(os.getpid(), None)})
    assert not found.ready and "does not listen" in found.waiting
