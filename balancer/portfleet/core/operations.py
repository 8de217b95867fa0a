"""Long operations as values: what was asked, by whom, how far it is; the verb's own part is a dataclass in ``work``.

An operation lies in the journal as JSON: its verb is the tag, the fields of the verb's dataclass are its ``arguments``.
What this version cannot read, an unknown verb or arguments that do not fit, is kept as it was found (`Unreadable`), for
the engine to end it with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, ClassVar, Literal

from portfleet.core import typed
from portfleet.core.policies import Drain as DrainPolicy
from portfleet.core.records import check_moment
from portfleet.core.value import value

#: Each verb's module in ``work`` and its class there.
VERBS: Mapping[str, tuple[str, str]] = {
    "drain": ("drain", "Drain"),
    "maint": ("drain", "Maint"),
    "undrain": ("undrain", "Undrain"),
    "migrate": ("migrate", "Migrate"),
    "cutover": ("cutover", "Cutover"),
    "rollback": ("cutover", "Rollback"),
    "restart": ("restart", "Restart"),
    "rebalance": ("rebalance", "Rebalance"),
    "scale": ("scale", "Scale"),
    "migrate-live": ("migrate_live", "MigrateLive"),
}
Then = Literal["wait", "evict", "kill"]


@value
class Policy:
    """How connections of instances that are being emptied end: ``rate`` a second are evicted, None lets them finish.

    ``deadline`` seconds after the begin ``then`` says how it goes on: "wait" as before, "evict" at the service's rate,
    or "kill", which closes all at once. None: there is no deadline.
    """

    rate: int | None
    deadline: float | None
    then: Then

    @property
    def closes(self) -> bool:
        """Return whether it ever closes a connection."""
        return self.rate is not None or (self.deadline is not None and self.then != "wait")


#: Connections that are closed a second and service if they are to be and no rate is given.
RATE = 500


def policy_of(drain: DrainPolicy, *, then: Then | None = None) -> Policy:
    """Return a service's own policy, with another ``then`` if that is given."""
    return Policy(drain.rate, drain.deadline, then or drain.then)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every operation remembers: when parts of it ``began`` (RFC 3339), and who was ``killed`` as it hung.

    Raise ValueError for a time that is none.
    """

    verb: ClassVar[str]
    #: Keys that earlier versions wrote and nothing needs any more.
    FORMER: ClassVar[frozenset[str]] = frozenset()
    began: Mapping[str, str] = field(default_factory=dict)
    killed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for moment in self.began.values():
            check_moment(moment)


def named(instances: tuple[str, ...]) -> None:
    """Raise ValueError if an instance has no name, or there is none: for a dataclass's ``__post_init__``."""
    if not instances or not all(instances):
        raise ValueError("it names no instance")


def kind_of(verb: str) -> type[Work]:
    """Return the dataclass of one of `VERBS`, whose module is loaded now: making a dataclass takes a millisecond."""
    module, name = VERBS[verb]
    kind: type[Work] = getattr(import_module(f"portfleet.core.work.{module}"), name)
    return kind


@value
class Unreadable:
    """An operation that this version cannot advance, as it was found, and ``why``."""

    verb: str
    arguments: Mapping[str, Any]
    why: str


@value
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
    kind = kind_of(verb)
    known = {key: value for key, value in arguments.items() if key not in kind.FORMER}
    try:
        return typed.read(kind, known, where=verb)
    except typed.Misfit as error:
        return Unreadable(verb, arguments, f"this version cannot read its arguments: {error}")
