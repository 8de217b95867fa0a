"""Operations as values: each verb's dataclass goes through JSON, and what does not fit is said, not guessed at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portfleet.core import typed
from portfleet.core.canary import Canary, CanaryStart, Counted
from portfleet.core.journal import from_json, to_json
from portfleet.core.operations import VERBS, Operation, Policy, Unreadable, Work, kind_of, policy_of, read_work
from portfleet.core.operations import from_json as operation_from_json
from portfleet.core.operations import to_json as operation_to_json
from portfleet.core.policies import Drain as DrainPolicy
from portfleet.core.records import Asked, ColourRecord, Moved
from portfleet.core.work.cutover import Cutover, Rollback
from portfleet.core.work.drain import Drain, Maint
from portfleet.core.work.migrate import Migrate
from portfleet.core.work.migrate_live import MigrateLive
from portfleet.core.work.rebalance import Rebalance
from portfleet.core.work.restart import Restart
from portfleet.core.work.scale import Scale
from portfleet.core.work.undrain import Undrain
from portfleet.operations.verbs import VERBS as ADVANCED

#: A journal with an operation of each verb in flight, as the version before wrote it.
BEFORE = json.loads((Path(__file__).with_name("golden") / "journal-version-1.json").read_text())
ASKED = Asked("drained", "2026-01-31T12:00:00Z", "ann@box", "disk")
START = CanaryStart(25, {"a": 41, "b": None}, Counted(10, 0, (("100.0", 9), ("inf", 1))), Counted(0, 0, ()))

#: Verbs that the version before did not have.
SINCE = {"migrate-live"}

EACH: tuple[Work, ...] = (
    Drain(instances=("a",), asked={"a": ASKED}, rate=7, handoff=True, deadline=6.5, then="kill", handed=3, left="x"),
    Maint(instances=("a", "b"), asked={}, rate=None, handoff=False, deadline=0.0, then="wait", ended=2, killed=("a",)),
    Undrain(instances=("a",), began={"x": "2026-01-31T12:00:00Z"}),
    Migrate(source="a", member="1", to="b", percent=0, handoff=True, share="x", before=Moved("2", 50), count=3),
    Cutover(
        colour="green", before=ColourRecord("v1", ("a", "b"), keep_until="2026-01-31T12:00:00Z"), fresh=True,
        asked={"a": ASKED},
        config_release="v2", config_release_before=None, keep=3600.0, handoff=True,
        canary=Canary(steps=(5, 25), every=600.0, max_errors=1.0, max_p99=2.0), step=1, canary_from=START,
        took={"ready": 1.5}, moved="x", left=1,
    ),
    Rollback(
        colour="blue", before=None, fresh=False, asked={}, config_release=None, config_release_before="v1", keep=0.0,
        handoff=False, canary=None,
    ),
    Restart(instances=("a", "b"), at_once=2, handoff=False, asked={"b": ASKED}, done=("a",)),
    Rebalance(limit=1.1),
    Scale(before=4, to=2, handoff=True, words="x"),
    MigrateLive(source="a", box="b", ssh="", asked={"a": ASKED}, moved=3),
)  # fmt: skip


def test_each_verb_has_its_dataclass_and_its_module() -> None:
    assert [type(work) for work in EACH] == [kind_of(verb) for verb in VERBS] == list(ADVANCED)
    assert {verb: kind_of(verb).verb for verb in VERBS} == {verb: verb for verb in VERBS}


@pytest.mark.parametrize("work", EACH, ids=lambda work: work.verb)
def test_an_operation_comes_back_from_the_journal_as_it_was(work: Work) -> None:
    operation = Operation(7, "echo", "w", "me", "now", work, "moving", 3, 9, "n", True, ("a",), "f", True, "begin")
    kept = json.loads(json.dumps(operation_to_json(operation), allow_nan=False))
    assert kept["verb"] == work.verb
    assert operation_from_json(kept) == operation


def test_operations_that_the_version_before_began_are_read_to_the_last_field() -> None:
    journal = from_json(BEFORE)
    assert [type(operation.work) for operation in journal.operations] == [
        kind_of(verb) for verb in VERBS if verb not in SINCE
    ]
    for found, operation in zip(BEFORE["operations"], journal.operations, strict=True):
        again = json.loads(json.dumps(operation_to_json(operation)))
        former = kind_of(operation.verb).FORMER
        kept = {key: value for key, value in found["arguments"].items() if key not in former}
        assert _filled(kept, again.pop("arguments")) == json.loads(json.dumps(typed.write(operation.work)))
        assert again == {key: value for key, value in found.items() if key != "arguments"}
    assert journal.history[0].stays is False
    assert from_json(json.loads(json.dumps(to_json(journal)))) == journal


def test_a_maint_of_the_version_before_is_known_by_its_verb() -> None:
    stops = {o.verb: o.work.stops for o in from_json(BEFORE).operations if isinstance(o.work, Drain)}
    assert stops == {"drain": False, "maint": True}


WRONG: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("drain", {"instances": "a"}, "drain.instances is not a list: 'a'"),
    ("drain", {"instances": []}, "it names no instance"),
    ("drain", {"instances": [7]}, "drain.instances[0] is not a text: 7"),
    ("drain", {"rate": 0}, "rate is 0, it must be at least 1"),
    ("drain", {"rate": True}, "drain.rate is not a whole number: True"),
    ("drain", {"deadline": float("nan")}, "drain.deadline is not a finite number: nan"),
    ("drain", {"deadline": 10**400}, "drain.deadline is not a finite number"),
    ("drain", {"then": "stop"}, "drain.then is not one of wait, evict, kill: 'stop'"),
    ("drain", {"asked": {"a": {"wanted": "gone", "since": "", "who": ""}}}, "drain.asked.a.wanted is not one of"),
    ("drain", {"asked": {"a": {"wanted": "drained"}}}, "drain.asked.a lacks since"),
    ("drain", {"colour": "red"}, "drain has an unknown key: colour"),
    ("migrate", {"percent": 101}, "percent is 101, it must be 0 to 100"),
    ("migrate", {"before": 7}, "migrate.before is not an object: 7"),
    ("cutover", {"colour": "red"}, "cutover.colour is not one of blue, green: 'red'"),
    ("cutover", {"keep": -1}, "keep is -1, it must be at least 0"),
    ("cutover", {"took": {"ready": "soon"}}, "cutover.took.ready is not a number: 'soon'"),
    ("cutover", {"canary": {"steps": [0], "every": 1, "max_errors": 1, "max_p99": 1}}, "steps is 0"),
    ("cutover", {"canary_from": {"percent": 5, "pids": {}, "canary": {}, "live": {}}}, "canary_from.canary lacks"),
    (
        "cutover",
        {"canary_from": typed.write(replace(START, live={"requests": 1, "errors": 0, "latency": [["x", 1]]}))},  # type: ignore[arg-type] # as JSON has it
        "could not convert",
    ),
    ("rollback", {"before": {"release": ["v1"]}}, "rollback.before.release is not"),
    ("restart", {"at_once": 0}, "at_once is 0"),
    ("rebalance", {"limit": 0.5}, "limit is 0.5, it must be at least 1"),
    ("scale", {"to": "2"}, "scale.to is not a whole number: '2'"),
    ("scale", {"to": 0}, "to is 0"),
)


@pytest.mark.parametrize(("verb", "changed", "why"), WRONG)
def test_arguments_that_do_not_fit_are_refused_with_the_place_and_the_value(
    verb: str, changed: dict[str, Any], why: str
) -> None:
    arguments = next(typed.write(work) for work in EACH if work.verb == verb) | changed
    work = read_work(verb, arguments)
    assert isinstance(work, Unreadable)
    assert work.why.startswith("this version cannot read its arguments: ") and why in work.why, work.why
    assert work.arguments == arguments, "kept as it was found, for the version that can"


@pytest.mark.parametrize("key", ["instances", "handoff", "then"])
def test_what_is_lacking_is_named(key: str) -> None:
    arguments = typed.write(EACH[0])
    del arguments[key]
    work = read_work("drain", arguments)
    assert isinstance(work, Unreadable) and work.why.endswith(f"drain lacks {key}")


def test_a_verb_that_is_not_known_is_kept_and_said() -> None:
    found = operation_to_json(Operation(7, "echo", "w", "me", "now", Unreadable("split", {"ways": 3}, "")))
    operation = operation_from_json(json.loads(json.dumps(found)))
    assert operation.work == Unreadable("split", {"ways": 3}, 'this version does not know the operation "split"')
    assert operation_to_json(operation) == found


@pytest.mark.parametrize(
    "found",
    [
        7,
        {"verb": 7},
        {"verb": "undrain", "arguments": []},
        {"verb": "undrain", "arguments": {}, "number": "7"},
        {"verb": "undrain", "arguments": {}, "number": 7, "service": "echo"},
    ],
)
def test_what_is_no_operation_at_all_is_refused(found: object) -> None:
    with pytest.raises(typed.Misfit, match="operation"):
        operation_from_json(found)


def test_the_services_own_policy() -> None:
    assert policy_of(DrainPolicy(rate=5, deadline=9.0)) == Policy(5, 9.0, "wait")
    assert policy_of(DrainPolicy(then="kill"), then="evict").then == "evict"


def _filled(kept: Any, written: Any) -> Any:
    """Return what an earlier version kept, with what later ones have beside it as it is ``written`` now."""
    if not isinstance(kept, dict) or not isinstance(written, dict):
        return kept
    return written | {key: _filled(value, written.get(key)) for key, value in kept.items()}
