"""Long operations as values: one frozen dataclass per verb with what it was asked and what it remembers on its way.

An operation lies in the journal as JSON: its verb is the tag, the fields of the verb's dataclass are its ``arguments``.
What this version cannot read, an unknown verb or arguments that do not fit, is kept as it was found (`Unreadable`), for
the engine to end it with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from portfleet.core import typed
from portfleet.core.canary import Canary, CanaryStart
from portfleet.core.model import Colour
from portfleet.core.model import Drain as DrainPolicy
from portfleet.core.records import Asked, ColourRecord, Moved
from portfleet.core.typed import within

Then = Literal["wait", "evict", "kill"]


@dataclass(frozen=True)
class Policy:
    """How connections of instances that are being emptied end: ``rate`` a second are evicted, None lets them finish.

    ``deadline`` seconds after the begin ``then`` says how it goes on: "wait" as before, "evict" at the service's rate,
    or "kill", which closes all at once. None: there is no deadline.
    """

    rate: int | None
    deadline: float | None
    then: Then


def policy_of(drain: DrainPolicy, *, then: Then | None = None) -> Policy:
    """Return a service's own policy, with another ``then`` if that is given."""
    return Policy(drain.rate, drain.deadline, then or drain.then)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every operation remembers: when parts of it ``began`` (RFC 3339), and who was ``killed`` as it hung."""

    verb: ClassVar[str]
    #: Keys that earlier versions wrote and nothing needs any more.
    FORMER: ClassVar[frozenset[str]] = frozenset()
    began: Mapping[str, str] = field(default_factory=dict)
    killed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Drain(Work):
    """Empty ``instances``; ``asked`` is what was asked of them before.

    Remembered: how many connections were ``handed`` off and how many ``ended``; ``left`` says in words what a hand-off
    left behind.
    """

    verb = "drain"
    FORMER = frozenset({"stop"})
    #: Whether the instances' processes are stopped when they are empty.
    stops: ClassVar[bool] = False
    instances: tuple[str, ...]
    asked: Mapping[str, Asked]
    rate: int | None
    handoff: bool
    deadline: float
    then: Then
    handed: int = 0
    left: str = ""
    ended: int = 0

    def __post_init__(self) -> None:
        _named(self.instances)
        if self.rate is not None:
            within("rate", self.rate, 1)
        within("deadline", self.deadline, 0)

    @property
    def policy(self) -> Policy:
        """Return how connections that are not handed off end."""
        return Policy(self.rate, self.deadline, self.then)


class Maint(Drain):
    """A drain after which the processes are stopped; nothing starts them again until an undrain."""

    verb = "maint"
    stops = True


@dataclass(frozen=True, kw_only=True)
class Undrain(Work):
    """Let ``instances`` serve again."""

    verb = "undrain"
    instances: tuple[str, ...]

    def __post_init__(self) -> None:
        _named(self.instances)


@dataclass(frozen=True, kw_only=True)
class Migrate(Work):
    """Move connections from ``source`` to ``to`` (instances), ``percent`` of them; whose share moves is ``member``.

    ``share`` says in words what holds then; ``before``: where the share was migrated until now. Remembered: ``count``,
    how many connections are to move.
    """

    verb = "migrate"
    source: str
    member: str
    to: str
    percent: int
    handoff: bool
    share: str
    before: Moved | None
    count: int = 0

    def __post_init__(self) -> None:
        _named((self.source, self.to, self.member))
        within("percent", self.percent, 0, 100)


@dataclass(frozen=True, kw_only=True)
class Cutover(Work):
    """Make ``colour`` live. ``before``: what it ran until now; ``asked``: what was asked of its instances.

    ``fresh``: its processes are started anew even if they run already; ``keep``: for how many seconds the old colour is
    kept; ``insist``: nothing is done if ``handoff`` is not possible. Remembered: the canary's ``step`` and
    ``canary_from``, ``took`` ({phase: seconds}), in words what ``moved``, and how many connections are ``left`` with
    the old colour.
    """

    verb = "cutover"
    colour: Colour
    before: ColourRecord | None
    fresh: bool
    asked: Mapping[str, Asked]
    config_release: str | None
    config_release_before: str | None
    keep: float
    handoff: bool
    canary: Canary | None
    insist: bool = False
    step: int = 0
    canary_from: CanaryStart | None = None
    took: Mapping[str, float] = field(default_factory=dict)
    moved: str = ""
    left: int = 0

    def __post_init__(self) -> None:
        within("keep", self.keep, 0)
        within("step", self.step, 0)


class Rollback(Cutover):
    """A cutover to the other colour with the release that it ran before."""

    verb = "rollback"


@dataclass(frozen=True, kw_only=True)
class Restart(Work):
    """Restart ``instances`` in this order, ``at_once`` at a time; ``asked`` is what was asked of them before.

    Remembered: those that are ``done``.
    """

    verb = "restart"
    instances: tuple[str, ...]
    at_once: int
    handoff: bool
    asked: Mapping[str, Asked]
    done: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _named(self.instances)
        within("at_once", self.at_once, 1)


@dataclass(frozen=True, kw_only=True)
class Rebalance(Work):
    """Move established connections until no instance has more than ``limit`` times the mean."""

    verb = "rebalance"
    limit: float

    def __post_init__(self) -> None:
        within("limit", self.limit, 1)


@dataclass(frozen=True, kw_only=True)
class Scale(Work):
    """Run ``to`` instances a colour in place of ``before``; remembered: in ``words`` what became of connections."""

    verb = "scale"
    before: int
    to: int
    handoff: bool
    words: str = ""

    def __post_init__(self) -> None:
        within("before", self.before, 1)
        within("to", self.to, 1)


VERBS: Mapping[str, type[Work]] = {
    kind.verb: kind for kind in (Drain, Maint, Undrain, Migrate, Cutover, Rollback, Restart, Rebalance, Scale)
}


@dataclass(frozen=True)
class Unreadable:
    """An operation that this version cannot advance, as it was found, and ``why``."""

    verb: str
    arguments: Mapping[str, Any]
    why: str


@dataclass(frozen=True)
class Operation:
    """A long operation that the watcher advances: who asked for it, how far it is, and what it needs to go on.

    ``phase`` is where it goes on after a restart; ``done`` of ``total`` is its progress (total 0: not known yet).
    ``owned``: instances that it starts and stops itself in this phase, so that the watcher leaves them alone;
    ``failed``: why it is being undone, "" while it is not; ``begun``: a watcher advances it, or did until its end;
    ``resumed``: the phase at which it last had to be resumed.
    """

    number: int
    service: str
    words: str
    who: str
    since: str
    work: Work | Unreadable
    phase: str = "begin"
    done: int = 0
    total: int = 0
    note: str = ""
    cancelled: bool = False
    owned: tuple[str, ...] = ()
    failed: str = ""
    begun: bool = False
    resumed: str = ""

    @property
    def verb(self) -> str:
        return self.work.verb


def to_json(operation: Operation) -> dict[str, Any]:
    """Return an operation as JSON values."""
    work = operation.work
    arguments = work.arguments if isinstance(work, Unreadable) else typed.write(work)
    frame = {f.name: typed.write(getattr(operation, f.name)) for f in fields(operation) if f.name != "work"}
    return {"verb": work.verb, "arguments": arguments, **frame}


def from_json(data: Any) -> Operation:
    """Read an operation back; Unreadable if its verb is not known or its arguments do not fit.

    Raises typed.Misfit for what is no operation at all.
    """
    if not isinstance(data, dict):
        raise typed.Misfit(f"an operation is not an object: {data!r}")
    frame = dict(data)
    verb, arguments = frame.pop("verb", None), frame.pop("arguments", {})
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        raise typed.Misfit(f"an operation has no verb or no arguments: {verb!r}, {arguments!r}")
    return typed.read(Operation, frame, where="operation", given={"work": read_work(verb, arguments)})


def read_work(verb: str, arguments: Mapping[str, Any]) -> Work | Unreadable:
    """Return what the operation ``verb`` was asked, and remembers, out of JSON values."""
    if verb not in VERBS:
        return Unreadable(verb, arguments, f'this version does not know the operation "{verb}"')
    kind = VERBS[verb]
    known = {key: value for key, value in arguments.items() if key not in kind.FORMER}
    try:
        return typed.read(kind, known, where=verb)
    except typed.Misfit as error:
        return Unreadable(verb, arguments, f"this version cannot read its arguments: {error}")


def _named(names: tuple[str, ...]) -> None:
    if not names or not all(names):
        raise ValueError("it names no instance")
