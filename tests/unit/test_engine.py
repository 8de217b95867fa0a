"""Operations that meet trouble: a refusal at their begin, a full disk in an undo, a cancel that comes late."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import portfleet.store.journal
from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.operations import Cutover, Drain, Operation, read_work
from portfleet.core.records import Asked, ColourRecord, ServiceRecord
from portfleet.operations import cutover, engine
from portfleet.operations.task import CannotUndo, OperationFailed, Task
from portfleet.operations.world import World
from portfleet.store.log import Log
from portfleet.submit.operation import submit
from support.fake_watched import Watched, run


@contextmanager
def watching(watched: Watched) -> Iterator[Context]:
    """Return what a command works with, as if a watcher ran."""
    context = Context(watched.paths)
    context.__dict__["plane"] = watched.kernel
    context.__dict__["supervisor"] = watched.world.supervisor
    with watched.paths.watch_lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield context


DRAIN = Drain(instances=("echo-blue-2",), asked={}, rate=None, handoff=False, deadline=600, then="wait")
CUTOVER = Cutover(
    colour="green", before=None, fresh=True, asked={}, config_release=None, config_release_before=None, keep=0.0,
    handoff=False, canary=None,
)  # fmt: skip


def drained(record: ServiceRecord) -> ServiceRecord:
    return replace(record, asked={"echo-blue-2": Asked("drained", "2026-01-31T12:00:00Z", "me")})


def begin(context: Context, between: Callable[[], object]) -> Exit:
    """Begin a drain, with ``between`` done after the command has looked."""
    want = context.service_up(context.applied_fleet, "echo")
    between()
    options = argparse.Namespace(dry_run=False, why="", wait=False)
    return submit(context, want, options, work=DRAIN, words="drain", change=drained)


def test_what_the_kernel_refused_is_not_begun(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        before = watched.store.read()
        with watching(watched) as context:
            watched.kernel.times = 1
            with pytest.raises(PortfleetError) as refused:
                begin(context, lambda: None)
            assert refused.value.code is Exit.KERNEL
            assert watched.store.read() == before
            assert begin(context, lambda: None) is Exit.DONE
        assert len(watched.slots()) == 3

    run(tmp_path, test)


def test_a_command_that_looked_before_another_changed_the_service_is_refused(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        with watching(watched) as context:
            with pytest.raises(PortfleetError, match="somebody changed it") as refused:
                begin(context, lambda: watched.change(live="green", colours={"green": ColourRecord()}))
            assert refused.value.code is Exit.LOCKED
        assert watched.moves() == []

    run(tmp_path, test)


def world_of(watched: Watched) -> World:
    return World(
        paths=watched.paths, store=watched.store, applied=watched.applied, plane=watched.kernel,
        supervisor=watched.world.supervisor, ejector=watched.ejector, log=Log(as_json=False, file=watched.log),
        wake=lambda: None,
    )  # fmt: skip


def task_of(watched: Watched, operation: Operation) -> Task[Any]:
    watched.store.update(lambda journal: journal.with_operation(operation))
    return Task(operation, world_of(watched))


def test_an_undo_goes_on_when_the_disk_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(watched: Watched) -> None:
        full = [PortfleetError("cannot write the journal: No space left on device")] * 3

        async def fail(_: Task[Any]) -> str:
            raise OperationFailed("it does not work")

        async def undo(_: Task[Any]) -> str:
            if full:
                raise full.pop()
            return "blue serves"

        operation = Operation(1, "echo", "w", "me", "now", CUTOVER)
        task = task_of(watched, operation)
        made = engine.Engine(task.world)
        monkeypatch.setattr(engine, "VERBS", {Cutover: SimpleNamespace(run=fail, undo=undo)})
        monkeypatch.setattr(engine, "_AGAIN", 0.01)
        await made._advance(operation)
        journal = watched.store.read()
        assert journal is not None and journal.operations == ()
        assert journal.history[-1].outcome == "it does not work; blue serves" and not journal.history[-1].ok

    run(tmp_path, test)


def test_an_operation_of_another_version_ends_and_frees_the_service(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        unknown = Operation(1, "echo", "w", "me", "now", read_work("split", {"ways": 3}), begun=True)
        wrong = Operation(2, "echo", "w", "me", "now", read_work("drain", {"instances": 7}))
        made = engine.Engine(task_of(watched, unknown).world)
        task_of(watched, wrong)
        going = asyncio.create_task(made.run())
        async with asyncio.timeout(10):
            while (journal := watched.store.read()) is None or journal.operations:
                await asyncio.sleep(0.01)
        going.cancel()
        first, second = journal.history
        assert first.outcome == 'this version does not know the operation "split"; what was done stays'
        assert second.outcome.startswith("this version cannot read its arguments: drain lacks asked; what was")
        assert all(entry.stays and not entry.ok and entry.code == Exit.FAILED for entry in journal.history)
        assert watched.log.getvalue().count(" failed ") == 2

    run(tmp_path, test)


def test_an_engine_at_rest_does_not_parse_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(watched: Watched) -> None:
        going = asyncio.create_task(engine.Engine(world_of(watched)).run())
        await asyncio.sleep(0)
        parses: list[object] = []
        monkeypatch.setattr(portfleet.store.journal, "from_json", parses.append)
        monkeypatch.setattr(engine, "_LOOK", 0.001)
        for _ in range(30):
            await asyncio.sleep(0.001)
        going.cancel()
        assert parses == []

    run(tmp_path, test)


def test_a_cutover_whose_old_colour_is_stopped_already_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(watched: Watched) -> None:
        stopped: list[str] = []

        async def stop(_: Task[Any], names: list[str]) -> None:
            stopped.extend(names)

        monkeypatch.setattr(cutover, "stop", stop)
        colours = {"blue": ColourRecord(stopped=True), "green": ColourRecord()}
        watched.change(live="green", colours=colours)
        watched.ejector.point(watched.roster.members["echo-blue-1"].service, ready=green())
        task = task_of(watched, Operation(1, "echo", "w", "me", "now", CUTOVER, "keeping"))
        with pytest.raises(CannotUndo, match="echo is live on green; blue was stopped already"):
            await cutover.undo(task)
        assert watched.slots() == dict.fromkeys(green(), 1024)
        assert stopped == [name.replace("green", "blue") for name in green()]

    run(tmp_path, test)


def green() -> list[str]:
    return [f"echo-green-{number}" for number in range(1, 5)]
