"""Rollbacks that no operator asked for: a new release whose instances end soon after each start, the old one kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from portfleet.core.desired import DesiredService
from portfleet.core.journal import Journal
from portfleet.core.model import other
from portfleet.core.operations import Operation
from portfleet.core.records import ColourRecord
from portfleet.core.work.cutover import Cutover, Rollback
from portfleet.operations.world import World
from portfleet.store import locks
from portfleet.supervise.exit_report import last_exit, last_lines

#: Who asks for them, in the history.
_WHO = "watcher"


def begin_rollbacks(world: World) -> None:
    """Begin to return to the old colour of each service whose new one does not stay up, if that is kept."""
    unsteady = set(world.unsteady())
    journal = world.store.read() if unsteady else None
    if journal is None:
        return
    for want in world.applied.desired().services.values():
        ending = sorted(i.name for i in want.of(want.live) if i.takes and i.name in unsteady)
        kept = want.record.colours.get(other(want.live))
        if not ending or kept is None or kept.stopped or not _was_cut_over(journal, want.name):
            continue
        if journal.running(want.name) is None and not locks.held(world.paths.operation_lock(want.name)):
            _begin(world, want, kept, "; ".join(_ends(world, ending[:1])))


def _was_cut_over(journal: Journal, service: str) -> bool:
    """Return whether a cutover made live what is live, and no rollback followed it, nor one of these that failed."""
    turns = [e for e in reversed(journal.history) if e.service == service and e.verb in (Cutover.verb, Rollback.verb)]
    return next((entry.verb for entry in turns if entry.ok or entry.who == _WHO), None) == Cutover.verb


def _ends(world: World, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        ended, log = last_exit(world.paths, name), " | ".join(last_lines(world.paths.log_of(name)))
        yield f"{name} ends soon after every start" + f", last with {ended}" * bool(ended) + f": {log}" * bool(log)


def _begin(world: World, want: DesiredService, kept: ColourRecord, reason: str) -> None:
    old, record = other(want.live), want.record
    names = [i.name for i in want.of(old)]
    work = Rollback(
        colour=old,
        before=kept,
        fresh=False,
        asked=record.asked_of(names),
        config_release=record.config_release,
        config_release_before=record.config_release,
        keep=0.0,
        handoff=True,
        canary=None,
    )

    def begun(journal: Journal) -> Journal:
        now = journal.services.get(want.name)
        if now != record or journal.running(want.name):
            return journal  # an operator was quicker
        live = replace(kept, since=world.clock.now(), keep_until=None)
        words = f"roll {want.name} back to {old}, as {reason}"
        operation = Operation(
            journal.next_number(), want.name, words, _WHO, world.clock.now(), work, owned=tuple(names)
        )
        return journal.with_service(want.name, record.with_colour(old, live)).with_operation(operation)

    world.store.update(begun)
    world.log("rolls-back", service=want.name, to=old, reason=reason)
    world.wake()
