"""The engine: operations that meet trouble, that are not known, and a watcher that has nothing to do."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import portfleet.store.journal
from portfleet.commands.lock import run as lock
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.operations import Operation, Work, read_work
from portfleet.core.records import ColourRecord
from portfleet.core.work.undrain import Undrain
from portfleet.operations import engine
from portfleet.operations.task import OperationFailed, Task
from portfleet.submit import operation as submitted
from support import virtual_time
from support.fake_operated import Box

UNDRAIN = Undrain(instances=("echo-blue-2",))


def begun(box: Box, work: Any = UNDRAIN, **fields: Any) -> None:
    """Write an operation into the journal."""
    number = box.journal.next_number()
    operation = Operation(number, "echo", "w", "me", "now", work, **fields)
    box.store.update(lambda journal: journal.with_operation(operation))


def test_an_operation_of_another_version_ends_at_once_and_frees_the_service(box: Box) -> None:
    begun(box, read_work("split", {"ways": 3}), begun=True)
    begun(box, read_work("drain", {"instances": 7}))
    box.command("cancel", "echo")
    box.finish()
    first, second = sorted(box.journal.history, key=lambda entry: entry.number)
    assert first.outcome == 'this version does not know the operation "split"; what was done stays'
    assert second.outcome.startswith("this version cannot read its arguments: drain lacks asked; what was done")
    for entry in (first, second):
        assert entry.stays and not entry.ok and entry.code == Exit.FAILED
    assert box.told.getvalue().count(" operation-failed ") == 2 and box.slots() == "blue-1 86, blue-2 85, blue-3 85"
    assert box.operate("drain", "echo/2", "--handoff").ok, "the service is free"


def test_at_rest_nothing_is_parsed(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    async def rest() -> None:
        going = asyncio.create_task(engine.Engine(box.world()).run())
        await asyncio.sleep(1)
        monkeypatch.setattr(portfleet.store.journal, "from_json", parses.append)
        await asyncio.sleep(60)
        going.cancel()

    parses: list[object] = []
    virtual_time.run(box.clock, rest())
    assert parses == [] and box.clock.slept > 60


def test_supervisord_away_for_a_moment_is_waited_for(box: Box) -> None:
    box.command("maint", "echo/2", "--handoff")
    box.supervisor.away = True
    box.later(2, lambda: setattr(box.supervisor, "away", False))
    assert box.finish().ok and box.told.getvalue().count("tries-again") == 3


def test_away_for_longer_the_operation_is_undone_as_soon_as_it_is_back(box: Box) -> None:
    box.command("maint", "echo/2", "--handoff")
    box.supervisor.away = True
    box.later(60, lambda: setattr(box.supervisor, "away", False))
    done = box.finish()
    assert done.outcome == "supervisord does not answer; echo-blue-2 serves again" and not done.stays
    assert box.slots() == "blue-1 86, blue-2 85, blue-3 85" and box.wanted() == {}


def test_who_cancels_is_told_that_it_stays(box: Box) -> None:
    box.command("drain", "echo/2")
    box.command("cancel", "echo")
    box.kernel.refuses = 1000
    done = box.finish()
    assert done.outcome == "cancelled; what was done stays: cannot change the rules" and done.stays


def verb(run: Any, undo: Any) -> Any:
    return SimpleNamespace(run=run, undo=undo)


async def fails(_: Task[Work]) -> str:
    raise OperationFailed("it does not work")


async def breaks(_: Task[Work]) -> str:
    raise ZeroDivisionError


async def undone(_: Task[Work]) -> str:
    return "blue serves"


def test_an_undo_goes_on_when_the_disk_has_room_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    full = [PortfleetError("cannot write the journal: No space left on device")] * 3

    async def undo(_: Task[Work]) -> str:
        if full:
            raise full.pop()
        return "blue serves"

    monkeypatch.setattr(engine, "VERBS", {Undrain: verb(fails, undo)})
    begun(box)
    assert box.finish().outcome == "it does not work; blue serves" and 3 <= box.clock.slept < 4


@pytest.mark.parametrize(
    ("made", "outcome", "stays"),
    [
        (verb(breaks, undone), "internal error: ZeroDivisionError(); blue serves", False),
        (verb(fails, breaks), "it does not work; what was done stays: internal error: ZeroDivisionError()", True),
        (verb(fails, fails), "it does not work; what was done stays: it does not work", True),
    ],
)
def test_a_defect_in_an_operation_is_told_and_does_not_end_the_watcher(
    box: Box, monkeypatch: pytest.MonkeyPatch, made: Any, outcome: str, stays: bool
) -> None:
    monkeypatch.setattr(engine, "VERBS", {Undrain: made})
    begun(box)
    done = box.finish()
    assert (done.outcome, done.ok, done.stays) == (outcome, False, stays)


def test_a_service_that_is_gone_ends_its_operation(box: Box) -> None:
    box.command("drain", "echo/2")
    box.paths.applied.write_text(box.text.replace("echo", "other").replace("7000", "7001"))
    done = box.finish()
    assert done.outcome == "service echo is not in the config any more" and not done.ok


def test_an_operation_is_not_begun_while_its_command_holds_the_service(box: Box) -> None:
    box.command("drain", "echo/2", "--handoff")
    with box.paths.operation_lock("echo").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        box.later(3, lambda: fcntl.flock(held, fcntl.LOCK_UN))
        assert box.finish().ok and 3 <= box.clock.slept < 5


def test_a_command_that_looked_before_another_changed_the_service_is_refused(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(context: Any, service: str) -> None:
        record = replace(box.journal.services["echo"], live="green", colours={"green": ColourRecord()})
        box.store.update(lambda journal: journal.with_service("echo", record))

    monkeypatch.setattr(submitted, "refuse_busy", changed)
    with pytest.raises(PortfleetError, match="changed it while this one was looking") as refused:
        box.command("drain", "echo/2")
    assert refused.value.code is Exit.LOCKED and box.journal.operations == ()


def test_while_one_runs_another_is_refused_and_lock_says_who(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.command("drain", "echo/2", "--why", "new memory")
    with pytest.raises(PortfleetError, match=r"locked by .*: drain: drain echo-blue-2 \(new memory\)") as refused:
        box.command("maint", "echo/1")
    assert refused.value.code is Exit.LOCKED
    lock(argparse.Namespace(service="echo"), box.context())
    assert "drain: drain echo-blue-2 (new memory), begin (operation 1)" in capsys.readouterr().out
