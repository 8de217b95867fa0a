"""What instances say of themselves decides what is done with them, whatever their command is called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from portfleet.apply.learn import learn, limit_changes, noted
from portfleet.core.changes import SetInstance, SetService
from portfleet.core.derive import learned, make_desired
from portfleet.core.desired import Desired
from portfleet.core.journal import Journal, from_json, to_json
from portfleet.core.observed import ObservedInstance
from portfleet.core.status import DaemonState, Status
from portfleet.daemons.capability import Heard, cannot_hand_off
from support.fake_world import World
from support.fleets import ECHO, PATHS, desired, fleet

LIMITED = ECHO + "max_connections = 50\n"


def says(**changes: object) -> Status:
    return replace(Status(DaemonState.READY, 0, handoff=frozenset({1})), **changes)  # type: ignore[arg-type] # by name


HEARD = {
    "able-1": Heard(says()),
    "able-2": Heard(says(handoff=frozenset({1, 2}))),
    "newer": Heard(says(handoff=frozenset({3}))),
    "unable": Heard(says(handoff=frozenset())),
    "plain": Heard(None, "it has no control socket", speaks=False),
    "hung": Heard(None, "control socket: no answer within 2000 ms"),
}


@pytest.mark.parametrize(
    ("senders", "receivers", "words"),
    [
        (["able-1"], ["able-2"], ""),
        (["able-1", "able-2"], ["able-1", "able-2"], ""),
        (["able-1"], ["plain", "able-2"], ""),
        (["able-1"], [], ""),
        ([], ["plain"], ""),
        (["hung"], ["able-1"], ""),
        (["able-1"], ["hung"], ""),
        (["able-1", "unable"], ["able-2"], "the daemon of unable says that it cannot hand off connections"),
        (["plain"], ["able-1"], "the daemon of plain cannot hand off connections (it has no control socket)"),
        (["able-1"], ["plain"], "the daemon of plain cannot hand off connections"),
        (["able-1"], ["unable", "plain"], "the daemon of unable says that it cannot"),
        (["able-2"], ["newer"], "able-2 and newer speak no common version of the hand-off protocol (1, 2; 3)"),
    ],
)
def test_who_can_hand_off_to_whom(senders: list[str], receivers: list[str], words: str) -> None:
    found = cannot_hand_off(senders, receivers, HEARD)
    assert found.startswith(words) and bool(found) == bool(words)


def test_takers_are_those_that_speak_a_common_version() -> None:
    want = desired().services["echo"]
    said = {"echo-blue-1": says(), "echo-blue-2": says(), "echo-blue-3": says(handoff=frozenset())}
    assert [i.name for i in want.takers("echo-blue-1", said)] == ["echo-blue-2"]
    assert want.takers("echo-blue-3", said) == want.takers("echo-blue-4", said) == ()


def seen(*statuses: Status | None, ready: bool = True) -> dict[str, ObservedInstance]:
    names = (f"echo-blue-{number}" for number in range(1, 5))
    return {name: ObservedInstance("RUNNING", 1, ready=ready, status=one) for name, one in zip(names, statuses)}  # noqa: B905


def limits(found: Desired) -> set[int]:
    return {want.rule.limit for want in found.services["echo"].instances}


def test_the_kernel_counts_until_daemons_that_are_ready_say_that_they_do_it_themselves() -> None:
    first = desired(LIMITED)
    assert limits(first) == {50} and first.services["echo"].rule.limited
    keeps, tighter, more, unsaid = (says(max_connections=limit) for limit in (50, 20, 51, 0))
    for some in ((), (keeps, more), (keeps, unsaid), (keeps, None), (None, None)):
        assert learned(first, seen(*some), PATHS) is first
    assert learned(first, seen(keeps, keeps, ready=False), PATHS) is first, "it is not known of who was never ready"
    told = learned(first, seen(keeps, tighter), PATHS)
    assert limits(told) == {0} and not told.services["echo"].rule.limited
    assert learned(told, {}, PATHS) is told and learned(told, seen(keeps), PATHS) is told
    assert limits(learned(told, seen(keeps, None), PATHS)) == {50}, "one of another release does not"
    assert learned(desired(), seen(keeps), PATHS).services["echo"].record.counts is False, "nothing is limited"


def test_what_was_learned_is_kept_in_the_journal() -> None:
    told = learned(desired(LIMITED), seen(says(max_connections=50)), PATHS)
    kept = noted(desired(LIMITED).journal, told.services.values())
    assert kept == told.journal == from_json(json.loads(json.dumps(to_json(kept))))
    assert limits(make_desired(fleet(LIMITED), kept, PATHS)) == {0}


def test_what_is_learned_is_in_the_journal_and_in_the_rules(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = world.apply(fleet(LIMITED))
    told = learn(before, seen(says(max_connections=50)), plane=world.kernel, store=world.store, paths=world.paths)
    kept = world.store.read()
    assert kept is not None and kept.services == told.journal.services != before.journal.services
    assert {rule.limit for rule in world.kernel.observe().instances.values() if rule} == {0}
    assert world.plan(fleet(LIMITED))[1].steps == (), "everything is as it shall be by that"
    assert learn(told, seen(says(max_connections=50)), plane=world.kernel, store=world.store, paths=world.paths) is told


def test_only_the_limits_of_rules_are_changed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.apply(fleet(LIMITED))
    before = make_desired(fleet(LIMITED), world.store.read() or Journal(), world.paths)
    told = learned(before, seen(says(max_connections=50)), world.paths).services["echo"]
    assert limit_changes(before.services["echo"], world.kernel.observe()) == ()
    for want, limit in ((told, 0), (before.services["echo"], 50)):
        changes = limit_changes(want, world.kernel.observe())
        assert {type(change) for change in changes} == {SetInstance, SetService}
        world.kernel.run(changes)
        state = world.kernel.observe()
        assert {rule.limit for rule in state.instances.values() if rule} == {limit}
        assert state.instances == {i.name: i.rule for i in want.instances}
        assert state.services == {"echo": want.rule}
