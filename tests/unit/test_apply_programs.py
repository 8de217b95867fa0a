"""Processes of instances: started and waited for, and all ended in one way, supervisord's children and adopted ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from portfleet.apply.endings import EMPTIED, HURRIED, Ending
from portfleet.apply.programs import Programs
from portfleet.core.errors import PortfleetError
from portfleet.core.program import WATCHER
from portfleet.core.records import Asked
from portfleet.linux import processes
from portfleet.supervise import adopted
from portfleet.supervise.ini import program_text, texts
from portfleet.supervise.program_digest import digest
from portfleet.supervise.supervisor import ProgramInfo
from support.fake_world import FakeLook, World
from support.fleets import ECHO, fleet

NAMES = [f"echo-blue-{number}" for number in range(1, 5)]
#: Ignores SIGTERM so often, then ends; says when it is ready for signals.
STUBBORN = """
import signal, sys
left = [int(sys.argv[1])]
def told(*_):
    if not left[0]: sys.exit(0)
    left[0] -= 1
signal.signal(signal.SIGTERM, told)
print("ready", flush=True)
while True: signal.pause()
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.apply(fleet())
    made.supervisor.signals.clear()
    return made


def programs(world: World, text: str = ECHO) -> Programs:
    return world.programs(world.desired(fleet(text)))


def end(made: Programs, names: list[str], how: Ending, *, alone: bool = False) -> None:
    made.run(made.ending(names, how, alone=alone))


@contextmanager
def adopted_process(world: World, name: str, *, ignores: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run a process that is noted as an instance and is no child of the (fake) supervisord."""
    child = subprocess.Popen(
        [sys.executable, "-c", STUBBORN, str(ignores)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        adopted.note(world.paths.processes, {name: (child.pid, processes.start_time(child.pid) or 0)})
        (world.paths.programs / f"{name}.conf").rename(world.paths.programs / f"{name}.adopted")
        world.supervisor.known.pop(name, None)
        world.clock.real = 0.005
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_one_that_is_ended_is_forgotten_and_others_are_left_alone(world: World) -> None:
    end(programs(world), NAMES[:2], EMPTIED)
    assert world.supervisor.known.keys() == {WATCHER, *NAMES[2:]}
    assert world.supervisor.signals == [(name, "TERM") for name in NAMES[:2]]
    assert world.clock.slept == 0
    end(programs(world), [], EMPTIED)


@pytest.mark.parametrize(
    ("how", "ignores", "signals", "at"),
    [
        (EMPTIED, 0, "TERM", 0),
        (EMPTIED, 1, "TERM TERM", 5),
        (EMPTIED, 999, "TERM( TERM)+ KILL", 10),
        (HURRIED, 1, "TERM TERM", 0),
        (HURRIED, 2, "TERM TERM TERM", 0.2),
        (HURRIED, 999, "TERM( TERM)+ KILL", 10),
        (Ending(again=None, kill=50), 999, "TERM KILL", 60),
    ],
)
def test_how_a_process_is_told_again_and_killed(
    world: World, how: Ending, ignores: int, signals: str, at: float
) -> None:
    world.supervisor.stubborn = {NAMES[0]: ignores}
    end(programs(world), NAMES[:1], how)
    assert re.fullmatch(signals, " ".join(sent for name, sent in world.supervisor.signals if name == NAMES[0]))
    assert at <= world.clock.slept <= at + 0.1


def test_one_that_outlives_sigkill_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.supervisor, "signal", lambda *_: None)
    with pytest.raises(PortfleetError, match="echo-blue-1 has not ended by SIGKILL") as error:
        end(programs(world), NAMES[:1], EMPTIED)
    assert error.value.hint == "see what it waits for: portfleet logs echo-blue-1"
    assert 40 <= world.clock.slept <= 41


def test_a_supervisord_that_starts_anew_finds_no_file_of_one_that_was_ended(world: World) -> None:
    made, files = programs(world), world.paths.programs
    end(made, NAMES[:2], EMPTIED)
    assert {path.stem for path in files.iterdir()} == {WATCHER, *NAMES[2:]}
    made.start(NAMES[:1])
    assert {path.stem for path in files.iterdir()} == {WATCHER, *NAMES[2:], NAMES[0]}
    assert world.up(NAMES[0])


def test_for_a_supervisord_that_is_about_to_start_there_is_no_file_of_one_in_maintenance(world: World) -> None:
    rests = world.desired(fleet()).journal.services["echo"].asking([NAMES[1]], Asked("maintenance", "", ""))
    world.store.update(lambda journal: journal.with_service("echo", rests))
    programs(world).files.lay_out()
    assert not (world.paths.programs / "echo-blue-2.conf").exists()


@pytest.mark.parametrize("alone", [False, True])
def test_an_adopted_process_is_ended_like_any_other(world: World, alone: bool) -> None:
    with adopted_process(world, NAMES[0]) as child:
        end(programs(world), NAMES[:1], EMPTIED, alone=alone)
        assert child.wait(10) == 0
    assert not (world.paths.programs / "echo-blue-1.adopted").exists()


@pytest.mark.parametrize(("ignores", "code"), [(1, 0), (999, -signal.SIGKILL)])
def test_an_adopted_process_is_told_again_and_killed(world: World, ignores: int, code: int) -> None:
    with adopted_process(world, NAMES[0], ignores=ignores) as child:
        end(programs(world), NAMES[:1], EMPTIED)
        assert child.wait(10) == code


def test_one_that_is_started_once_more_meanwhile_is_stopped_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (world.paths.programs / f"{NAMES[0]}.conf").read_bytes()
    with adopted_process(world, NAMES[0]) as child:

        def sleep(seconds: float, real: Callable[[float], None] = world.clock.sleep) -> None:
            if world.clock.slept == 0:  # as a watcher does that has seen the adopted process end
                child.wait(10)
                (world.paths.programs / f"{NAMES[0]}.conf").write_bytes(before)
                world.supervisor.start(NAMES[0])
            real(seconds)

        monkeypatch.setattr(world.clock, "sleep", sleep)
        end(programs(world), NAMES[:1], EMPTIED)
    assert NAMES[0] not in world.supervisor.known and world.clock.slept < 5
    assert not (world.paths.programs / f"{NAMES[0]}.conf").exists()


def test_a_second_signal_that_comes_before_the_first_was_taken_in_is_sent_once_more(world: World) -> None:
    with adopted_process(world, NAMES[0], ignores=1) as child:
        child.send_signal(signal.SIGSTOP)  # whatever is sent now is one signal when it goes on
        waits = programs(world).ending(NAMES[:1], HURRIED)
        assert [next(waits) for _ in range(3)]
        child.send_signal(signal.SIGCONT)
        for seconds in waits:
            world.clock.sleep(seconds)
        assert child.wait(10) == 0, "by SIGTERM, not by SIGKILL"


def test_a_pid_that_another_process_has_by_now_is_left_alone(world: World) -> None:
    with adopted_process(world, NAMES[0]) as child:
        adopted.note(world.paths.processes, {NAMES[0]: (child.pid, (processes.start_time(child.pid) or 0) - 1)})
        made = programs(world)
        end(made, NAMES[:1], EMPTIED)
        made.kill(NAMES[0])
        assert child.poll() is None


def test_a_process_that_hangs_is_killed_and_supervisord_may_start_it_again(world: World) -> None:
    programs(world).kill(NAMES[0])
    assert world.supervisor.signals == [(NAMES[0], "KILL")] and NAMES[0] in world.supervisor.known
    with adopted_process(world, NAMES[1]) as child:
        programs(world).kill(NAMES[1])
        assert child.wait(10) == -signal.SIGKILL


def test_starting_writes_the_file_and_replaces_a_program_that_is_another_by_now(world: World) -> None:
    other = ECHO + "environment = { A = '1' }\n"
    made = programs(world, other)
    made.start(NAMES[:1])
    assert 'A="1"' in (world.paths.programs / "echo-blue-1.conf").read_text()
    assert 'A="1"' in world.supervisor.known["echo-blue-1"].text
    assert 'A="1"' not in world.supervisor.known["echo-blue-2"].text


def test_who_does_not_become_ready_is_noted_with_the_reason(world: World) -> None:
    world.doomed = {NAMES[0]}
    made = programs(world)
    made.run(made.waiting(NAMES, 30))
    assert made.failed == {NAMES[0]: "doomed"} and 1 <= world.clock.slept < 2, "it has a second to bind all addresses"


def test_waiting_ends_in_time(world: World) -> None:
    for name in NAMES[:1]:
        world.supervisor.known[name].state = "BACKOFF"
    made = programs(world)
    made.run(made.waiting(NAMES, 30))
    assert made.failed == {NAMES[0]: "supervisord has it BACKOFF"} and 30 <= world.clock.slept < 31


def test_the_last_of_many_that_start_together_may_take_as_long_after_the_one_before(world: World) -> None:
    world.slow = {name: 300 * number for number, name in enumerate(NAMES)}
    made = programs(world)
    made.run(made.waiting(NAMES, 20))
    assert made.failed == {} and world.clock.slept > 40


def test_what_never_comes_back_is_not_waited_for(world: World) -> None:
    world.doomed, world.supervisor.known[NAMES[0]].state = {NAMES[0]}, "FATAL"
    made = programs(world)
    made.look = lambda _: FatalLook(world)
    made.run(made.waiting(NAMES, 30))
    assert made.failed == {NAMES[0]: "ended within a second of each start"} and world.clock.slept == 0


class FatalLook(FakeLook):
    def at(self, *found):  # type: ignore[no-untyped-def] # as the fake's own
        return {
            name: replace(seen, fault="ended within a second of each start") if seen.program == "FATAL" else seen
            for name, seen in super().at(*found).items()
        }


def test_for_a_supervisord_that_is_about_to_start_there_are_files_of_all_that_is_to_run_and_of_nothing_else(
    world: World,
) -> None:
    (world.paths.programs / "echo-blue-9.conf").write_text("x")
    with adopted_process(world, NAMES[0]):
        programs(world).files.lay_out()
        found = {path.name for path in world.paths.programs.iterdir()}
    there = {"echo-blue-1.adopted", *(f"{name}.conf" for name in [*NAMES[1:], WATCHER])}
    noted = {f"{name}.content" for name in NAMES}  # of what each was started from
    assert found == there | noted | {"echo-blue-9.conf.aside-1"}


DAMAGE = {
    "no text": b"\xff\xfe",
    "no ini": b"; Written by portfleet\n[[[[",
    "deep": b"; Written by portfleet\n" + b"[" * 100_000,
    "an expansion": b"; Written by portfleet\n[program:echo-blue-1]\ncommand=/bin/true %(nothing)s\n",
    "an expansion at sight": b"; Written by portfleet\n[program:echo-blue-1]\ncommand=/bin/true %%(here)s\n",
    "a user that is gone": b"; Written by portfleet\n[program:echo-blue-1]\ncommand=/bin/true\nuser=no-such-user\n",
    "no number": b"; Written by portfleet\n[program:echo-blue-1]\ncommand=/bin/true\nstopwaitsecs=soon\n",
    "another program": b"; Written by portfleet\n[program:echo-blue-2]\ncommand=/bin/true\n",
    "two programs": b"; Written by portfleet\n[program:echo-blue-1]\ncommand=a\n[program:x]\ncommand=a\n",
    "empty": b"",
    "others'": b"[program:echo-blue-1]\ncommand=/bin/true\n",
}


def test_one_that_has_been_told_to_end_is_waited_for_and_started_anew(world: World) -> None:
    name, known = "echo-blue-1", world.supervisor.known
    started = programs(world)
    started.start([name])
    known[name].state = "STOPPING"  # by a stop whose answer got lost
    before = known[name].pid
    started.start([name])
    started.run(started.waiting([name], 5))
    assert not started.failed and known[name].state == "RUNNING" and known[name].pid != before


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_named_and_written_anew_or_set_aside(how: str, world: World) -> None:
    files = programs(world).files
    files.lay_out()
    before = {path.name: path.read_bytes() for path in world.paths.programs.iterdir()}
    for name in ("echo-blue-1", "echo-blue-9", "foreign"):
        (world.paths.programs / f"{name}.conf").write_bytes(DAMAGE[how])
    assert [path.stem for path in files.damaged(texts(world.paths.programs, "conf"))] == [
        "echo-blue-1",
        "echo-blue-9",
        "foreign",
    ]
    said = files.put_right()
    assert ["written anew" in words for words in said] == [True, False, False]
    assert all(f"{name}.conf: " in words for name, words in zip(("1", "9", "foreign"), said, strict=True))
    after = {path.name: path.read_bytes() for path in world.paths.programs.iterdir()}
    aside = {f"{name}.conf.aside-1": DAMAGE[how] for name in ("echo-blue-9", "foreign")}
    assert after == before | aside
    assert files.put_right() == []


def test_what_is_no_file_is_set_aside_and_never_opened(world: World) -> None:
    files = programs(world).files
    files.lay_out()
    (world.paths.programs / "echo-blue-1.conf").unlink()
    (world.paths.programs / "echo-blue-1.conf").mkdir()
    os.mkfifo(world.paths.programs / "echo-blue-9.conf")
    assert len(files.put_right()) == 2
    files.lay_out()
    assert (world.paths.programs / "echo-blue-1.conf").is_file() and files.damaged(
        texts(world.paths.programs, "conf")
    ) == {}


def test_an_outdated_file_that_supervisord_can_read_is_left_for_its_restart(world: World) -> None:
    files = programs(world).files
    files.lay_out()
    path = world.paths.programs / "echo-blue-1.conf"
    path.write_text(path.read_text().replace("startsecs=1", "startsecs=2"))
    runs = ProgramInfo("echo-blue-1", "RUNNING", 1, 0, 0, 0, "")
    assert files.put_right() == [] and files.outdated("echo-blue-1", runs, texts(world.paths.programs, "conf"))
    path.write_bytes(DAMAGE["empty"])  # supervisord itself knows how that one runs
    assert not files.outdated("echo-blue-1", runs, texts(world.paths.programs, "conf"))


def test_a_program_that_runs_by_another_text_than_its_file_is_outdated(world: World) -> None:
    files = programs(world).files
    files.lay_out()
    right = program_text(world.desired(fleet()).programs["echo-blue-1"]).encode()
    runs = ProgramInfo("echo-blue-1", "RUNNING", 1, 0, 0, 0, "", digest(right))
    assert not files.outdated("echo-blue-1", runs, texts(world.paths.programs, "conf"))
    assert files.outdated(
        "echo-blue-1", replace(runs, runs_by=digest(right + b"\n")), texts(world.paths.programs, "conf")
    )


@pytest.mark.parametrize("state", ["EXITED", "RUNNING"])
def test_one_that_ended_after_it_was_ready_and_before_that_is_watched_for_has_not_lived_on(
    world: World, state: str
) -> None:
    """As the first process of a daemon does that goes into the background as soon as its port is open."""
    made = programs(world, ECHO.replace('min_ready = "off"', 'min_ready = "5s"'))
    made.run(made.waiting(NAMES, 5))
    assert made.failed == {}
    one = world.supervisor.known[NAMES[0]]
    one.state, one.pid = state, one.pid + 100
    made.run(made.living(NAMES))
    assert made.failed.keys() == {NAMES[0]} and "ended within 5 s of being ready" in made.failed[NAMES[0]]
