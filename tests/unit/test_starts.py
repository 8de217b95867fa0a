"""Programs that the watcher starts: one that was stopped while its start was under way is taken back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from portfleet.core.errors import PortfleetError
from portfleet.store.log import Log
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.starts import Starts
from support.fake_watched import Watched, run


def starts(watched: Watched) -> Starts:
    """Return what starts programs of a fleet that serves."""
    log = Log(as_json=False, file=watched.log)
    return Starts(programs=watched.world.programs, roster=watched.roster, log=log, pool=ThreadPoolExecutor(1, "helper"))


def meanwhile(patch: pytest.MonkeyPatch, watched: Watched, work: Callable[[], object]) -> None:
    """Have ``work`` done while the next start is under way, when it has looked at what there is."""
    programs, left = watched.world.supervisor.programs, [work]

    def first() -> dict[str, ProgramInfo]:
        found = programs()
        while left:
            left.pop()()
        return found

    patch.setattr(watched.world.supervisor, "programs", first)


def forgotten(watched: Watched, name: str) -> None:
    """Have an instance be unknown to supervisord, as after its death."""
    watched.world.supervisor.known.pop(name)
    (watched.paths.programs / f"{name}.conf").unlink()


def test_what_is_wanted_is_started(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        forgotten(watched, "echo-blue-2")
        assert await starts(watched).start("echo-blue-2") == ""
        assert "echo-blue-2" in watched.world.supervisor.known

    run(tmp_path, test)


def check_that_it_is_taken_back(tmp_path: Path, patch: pytest.MonkeyPatch, stop: Callable[[Watched], object]) -> None:
    """Check that nothing is left of an instance that ``stop`` stopped during its start."""

    async def test(watched: Watched) -> None:
        forgotten(watched, "echo-blue-4")
        meanwhile(patch, watched, lambda: stop(watched))
        assert await starts(watched).start("echo-blue-4") == ""
        assert "echo-blue-4" not in watched.world.supervisor.known
        assert not (watched.paths.programs / "echo-blue-4.conf").exists()
        assert "taken-back" in watched.log.getvalue()
        assert {"echo-blue-1", "echo-blue-2", "echo-blue-3"} <= watched.world.supervisor.known.keys()

    run(tmp_path, test)


def test_what_an_operation_has_stopped_meanwhile_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_it_is_taken_back(tmp_path, monkeypatch, lambda watched: watched.change(instances=3, config_instances=4))


def test_so_it_is_with_a_service_that_was_taken_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    down = "root@host 2026-11-28T00:00:00Z"
    check_that_it_is_taken_back(tmp_path, monkeypatch, lambda watched: watched.change(down=down))


def test_what_is_not_wanted_any_more_is_not_started(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        forgotten(watched, "echo-blue-4")
        watched.change(instances=3, config_instances=4)
        watched.roster.reload()
        assert await starts(watched).start("echo-blue-4") == ""
        assert "echo-blue-4" not in watched.world.supervisor.known

    run(tmp_path, test)


def test_why_one_cannot_be_started_is_said_and_one_taken_back_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(watched: Watched) -> None:
        def refuse(*_: str) -> dict[str, str]:
            raise PortfleetError("supervisord: BAD_NAME")

        forgotten(watched, "echo-blue-4")
        monkeypatch.setattr(watched.world.supervisor, "start", refuse)
        assert await starts(watched).start("echo-blue-4") == "supervisord: BAD_NAME"
        meanwhile(monkeypatch, watched, lambda: watched.change(instances=3, config_instances=4))
        assert await starts(watched).start("echo-blue-4") == ""

    run(tmp_path, test)
