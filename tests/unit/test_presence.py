"""Whether the watcher and supervisord answer, against sockets that behave as theirs do when they hang or are gone."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portfleet.core.paths import Paths
from portfleet.core.states import Presence
from portfleet.supervise.presence import Overseer, WatcherQuestion, ask_supervisord, supervisor_pid, troubles


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "run").mkdir()
    return Paths(tmp_path / "fleet.toml", tmp_path / "lib", tmp_path / "run", tmp_path / "log", home=tmp_path)


@contextmanager
def listening(path: Path, *, backlog: int = 5) -> Iterator[socket.socket]:
    """Listen on ``path``, and answer nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        yield listener


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def watcher(paths: Paths, seconds: float = 0.2) -> Overseer:
    return WatcherQuestion(paths).answer(seconds=seconds)


def test_no_watcher_is_told_at_once(paths: Paths) -> None:
    assert watcher(paths, seconds=60) == Overseer("the watcher", Presence.ABSENT)
    with listening(paths.watch_socket):
        pass  # the socket stays behind, as a killed watcher leaves it
    assert watcher(paths, seconds=60).presence is Presence.ABSENT


def test_one_that_holds_the_lock_and_does_not_listen_yet_is_starting(paths: Paths) -> None:
    with locked(paths.watch_lock):
        assert watcher(paths) == Overseer("the watcher", Presence.STARTING, os.getpid())
        with socket.socket(socket.AF_UNIX) as listener:

            def answer() -> None:
                listener.bind(str(paths.watch_socket))
                listener.listen()
                listener.accept()[0].sendall(b"{}\n")

            later = threading.Timer(0.1, answer)
            later.start()
            assert watcher(paths, seconds=60).works
            later.join()


def test_one_that_listens_and_does_not_answer_is_hung_and_its_process_is_told(paths: Paths) -> None:
    with locked(paths.watch_lock), listening(paths.watch_socket):
        assert watcher(paths) == Overseer("the watcher", Presence.HUNG, os.getpid())


def test_one_that_ends_before_it_answers_is_gone(paths: Paths) -> None:
    with locked(paths.watch_lock), listening(paths.watch_socket) as listener:
        question = WatcherQuestion(paths)
        listener.accept()[0].close()
        paths.watch_socket.unlink()
        assert question.answer(seconds=0.2).presence is Presence.STARTING  # the lock is held by the next one
    assert watcher(paths).presence is Presence.ABSENT


def test_one_that_is_held_by_a_signal_is_not_waited_for(paths: Paths) -> None:
    words = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('up', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", words, str(paths.watch_lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        with listening(paths.watch_socket, backlog=0), socket.socket(socket.AF_UNIX) as first:
            first.connect(str(paths.watch_socket))  # the kernel lets no more in
            found = watcher(paths, seconds=60)
        process.kill()
    assert found == Overseer("the watcher", Presence.SUSPENDED, process.pid)


def test_an_answer_that_came_while_something_else_was_looked_at_counts(paths: Paths) -> None:
    with listening(paths.watch_socket) as listener:
        question = WatcherQuestion(paths)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100).endswith(b"\n")
            connection.sendall(b'{"ok": true}\n')
            assert question.answer(seconds=0).works and question.said == {"ok": True}


def test_an_answer_of_many_parts_is_one_and_an_unfinished_one_is_none(paths: Paths) -> None:
    with locked(paths.watch_lock), listening(paths.watch_socket) as listener:
        question = WatcherQuestion(paths)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b'{"ends": {"echo-blue-1"')
            later = threading.Timer(0.1, connection.sendall, [b": 2}}\n"])
            later.start()
            assert question.answer(seconds=60).works and question.said == {"ends": {"echo-blue-1": 2}}
            later.join()
        question = WatcherQuestion(paths)
        with listener.accept()[0] as connection:
            connection.sendall(b'{"ends": {')
            assert question.answer(seconds=0.1).presence is Presence.HUNG and question.said == {}


def test_supervisord_that_does_not_answer_is_neither_absent_nor_running(paths: Paths) -> None:
    assert ask_supervisord(paths, seconds=0.2).presence is Presence.ABSENT
    with listening(paths.supervisor_socket):
        assert ask_supervisord(paths, seconds=0.2) == Overseer("supervisord", Presence.HUNG)


def test_a_process_held_by_a_signal_is_told_from_one_that_hangs(paths: Paths) -> None:
    words = "import sys, time; print('up', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", words, str(paths.supervisor_config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        (paths.run / "supervisord.pid").write_text(f"{process.pid}\n")
        with listening(paths.supervisor_socket):
            assert ask_supervisord(paths, seconds=0.1) == Overseer("supervisord", Presence.HUNG, process.pid)
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            found = ask_supervisord(paths, seconds=0.1)
        process.kill()
    assert found == Overseer("supervisord", Presence.SUSPENDED, process.pid)
    assert found.trouble.hint == f"kill -CONT {process.pid}"


def test_a_pid_that_another_process_has_now_is_not_supervisords(paths: Paths) -> None:
    (paths.run / "supervisord.pid").write_text(f"{os.getpid()}\n")
    assert supervisor_pid(paths) is None


def test_what_is_wrong_is_said_with_the_command_that_ends_it() -> None:
    works = Overseer("supervisord", Presence.RUNNING)
    hung = Overseer("the watcher", Presence.HUNG, 7)
    assert troubles(works, Overseer("the watcher", Presence.RUNNING, 7)) == []
    (trouble,) = troubles(works, hung)
    assert trouble.words.startswith("the watcher (pid 7) does not answer: no instance is ejected")
    assert trouble.hint.startswith("kill -KILL 7 ")
    gone = Overseer("supervisord", Presence.ABSENT), Overseer("the watcher", Presence.ABSENT)
    assert [trouble.hint for trouble in troubles(*gone)] == ["portfleet up"]
    assert [trouble.what[:11] for trouble in troubles(gone[0], hung)] == ["the watcher", "supervisord"]
