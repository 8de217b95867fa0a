"""How long a verb waits for a watcher, against sockets that answer as one does while it starts."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portfleet.apply.context import Context
from portfleet.apply.overseers import await_watcher
from portfleet.core.paths import Paths


@contextmanager
def answering(path: Path, *answers: dict[str, object]) -> Iterator[list[dict[str, object]]]:
    """Answer one question after the other, as the watcher does; yield what was answered so far."""
    given: list[dict[str, object]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)

        def serve() -> None:
            for answer in answers:
                with listener.accept()[0] as connection:
                    connection.recv(100)
                    given.append(answer)
                    connection.sendall(json.dumps(answer).encode() + b"\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield given
        thread.join(timeout=5)
        assert not thread.is_alive(), "it was asked fewer times"


def context(home: Path) -> Context:
    (home / "run").mkdir()
    return Context(Paths(home / "fleet.toml", home / "lib", home / "run", home / "log", home=home))


def test_a_watcher_that_has_not_found_the_processes_yet_is_waited_for(tmp_path: Path) -> None:
    found = context(tmp_path)
    with answering(found.paths.watch_socket, {"looked": False}, {"looked": False}, {"looked": True}) as given:
        assert await_watcher(found).works
        assert len(given) == 3


def test_one_of_an_earlier_version_is_taken_at_its_word(tmp_path: Path) -> None:
    found = context(tmp_path)
    with answering(found.paths.watch_socket, {"out": {}}):
        assert await_watcher(found).works
