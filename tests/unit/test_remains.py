"""What is started while all processes are looked at is not what an earlier start has left."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from portfleet.core.paths import Paths
from portfleet.linux.processes import start_time
from portfleet.store.directories import make_directories
from portfleet.store.log import Log
from portfleet.supervise import adopted
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.remains import Remains
from support.sandbox import wait_for

NAME = "echo-blue-1"


class Instance:
    """An instance that is started while all processes are looked at: ``asked`` counts how often supervisord was."""

    def __init__(self, paths: Paths) -> None:
        self.asked = 0
        control = f"{paths.run}/{NAME}.sock"
        environment = {**os.environ, "PORTFLEET_INSTANCE": NAME, "PORTFLEET_CONTROL": control}
        self.process = subprocess.Popen(["sleep", "600"], env=environment, process_group=0)
        # exec(2) closes Popen's pipe before it sets up what /proc tells of the environment.
        there = Path(f"/proc/{self.process.pid}/environ")
        wait_for("its environment is there", lambda: NAME.encode() in there.read_bytes())

    def programs(self) -> dict[str, ProgramInfo]:
        """Return what supervisord has: nothing that runs when it is asked first."""
        self.asked += 1
        if self.asked == 1:
            return {NAME: ProgramInfo(NAME, "STOPPED", None, 0, 0, 0, "")}
        return {NAME: ProgramInfo(NAME, "RUNNING", self.process.pid, 1, 0, 0, "")}


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = Paths(tmp_path / "fleet.toml", tmp_path / "lib", tmp_path / "run", tmp_path / "log", home=tmp_path)
    make_directories(found)
    with subprocess.Popen(["sleep", "600"]) as other:
        # With one that is noted and alive, no others are looked for.
        adopted.note(found.processes, {"echo-blue-2": (other.pid, start_time(other.pid) or 0)})
        yield found
        other.kill()


@pytest.fixture
def instance(paths: Paths) -> Iterator[Instance]:
    found = Instance(paths)
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture
def remains(paths: Paths) -> Remains:
    member = SimpleNamespace(
        name=NAME, local=True, startable=True, want=SimpleNamespace(rule=SimpleNamespace(port=7100)),
        service=SimpleNamespace(name="echo"),
    )  # fmt: skip
    roster = cast(Any, SimpleNamespace(members={NAME: member}, busy=lambda _: None))
    log = Log(as_json=False, file=io.StringIO())
    return Remains(paths, roster, cast(Any, None), log, lambda _: None)


def test_what_is_started_meanwhile_is_not_ended(remains: Remains, instance: Instance) -> None:
    programs, found = remains.all(instance.programs, None)
    assert [one.pid for one in found.of(NAME)] == [instance.process.pid]
    remains.look(programs, found, {})
    assert not remains.holds(NAME) and instance.process.poll() is None


def test_what_an_earlier_start_has_left_is_ended(remains: Remains, instance: Instance) -> None:
    programs, found = remains.all(lambda: {NAME: ProgramInfo(NAME, "EXITED", None, 1, 2, 1, "")}, None)
    remains.look(programs, found, {})
    assert remains.holds(NAME) and instance.process.wait(60) == -signal.SIGTERM


def test_what_has_ended_since_all_processes_were_looked_at_is_nothing_left(
    remains: Remains, instance: Instance
) -> None:
    _, found = remains.all(instance.programs, None)
    instance.process.kill()
    instance.process.wait()
    remains.look({NAME: ProgramInfo(NAME, "EXITED", None, 1, 2, -1, "")}, found, {})
    assert not remains.holds(NAME)


def test_all_are_looked_at_again_soon_if_something_is_amiss(remains: Remains, instance: Instance) -> None:
    def fail() -> dict[str, ProgramInfo]:
        raise OSError

    assert remains.due(away=False), "for the first time"
    _, found = remains.all(instance.programs, None)
    assert not remains.due(away=False) and not remains.due(away=True)
    wait_for("one is away", lambda: remains.due(away=True))
    assert not remains.due(away=False)
    remains.hurry()
    assert remains.due(away=False)
    with pytest.raises(OSError):
        remains.all(fail, None)
    assert remains.due(away=False), "the look has failed"
    remains.all(instance.programs, None)
    remains.look({NAME: ProgramInfo(NAME, "EXITED", None, 1, 2, 1, "")}, found, {})
    assert remains.holds(NAME)
    wait_for("something is left", lambda: remains.due(away=False))
