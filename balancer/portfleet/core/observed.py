"""What is, as values: filled in by ``observe``, compared with what shall be by ``plan``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from portfleet.core.changes import PlaneState
from portfleet.core.states import Presence
from portfleet.core.status import Status
from portfleet.core.value import value


@value
class Out:
    """Why an instance is out: its process died, its probes failed, or it is new; ``since`` is RFC 3339 in UTC."""

    kind: Literal["died", "probe", "new"]
    since: str
    reason: str


@value
class Retry:
    """Why an instance is in a crash loop, and when it is started again, for the ``attempt``-th time since it served.

    ``at`` is RFC 3339 in UTC; None if it stays down until an operator starts it.
    """

    reason: str
    at: str | None
    attempt: int


@value
class OwnProcess:
    """A process of the data plane's own that takes orders, and how many connections it carries.

    ``former``: earlier ones of its program that end when their last connection has.
    """

    pid: int
    connections: int
    former: int = 0


@value
class ObservedInstance:
    """One instance as it is.

    ``program`` is supervisord's state (None: it does not know the instance); ``ready``: it takes connections by every
    address family; ``fault``: why it never will as it is; ``waiting``: why it does not yet; ``since`` is a Unix time;
    ``connections`` is None if it could not be told; ``adopted``: it runs, but supervisord has lost it; ``status`` is
    what it said of itself on its control socket, None if it has none or does not answer properly.
    """

    program: str | None = None
    pid: int | None = None
    since: int = 0
    exit_status: int = 0
    ready: bool = False
    fault: str | None = None
    waiting: str = ""
    connections: int | None = 0
    adopted: bool = False
    status: Status | None = None


_UNSEEN = ObservedInstance()


@value
class Observed:
    """The whole fleet as it is.

    ``outdated``: programs that run with another command, user or environment than wanted; ``damaged``: files of
    programs that supervisord cannot read or that are not ours, with why; ``strangers``: who else listens on an
    instance's port, by instance; ``claims``: who else serves what clients dial, in words; ``out``: who is ejected and
    ``retries``: who is in a crash loop, by the watcher's word; ``watcher``: supervisord runs it; ``own``: the data
    plane's own programs that take orders; ``metrics``: the metrics' process runs. Without an answer of supervisord
    (``supervisord``) nothing is known of programs but what can be seen. ``at``: when it was looked at, as a Unix time.
    """

    plane: PlaneState
    supervisord: Presence = Presence.RUNNING
    instances: Mapping[str, ObservedInstance] = field(default_factory=dict)
    outdated: frozenset[str] = frozenset()
    damaged: Mapping[str, str] = field(default_factory=dict)
    strangers: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[str, ...] = ()
    out: Mapping[str, Out] = field(default_factory=dict)
    retries: Mapping[str, Retry] = field(default_factory=dict)
    watcher: bool = True
    own: Mapping[str, OwnProcess] = field(default_factory=dict)
    metrics: bool = False
    at: float = 0.0

    @property
    def supervisor(self) -> bool:
        """Return whether supervisord answers and takes orders."""
        return self.supervisord is Presence.RUNNING

    @property
    def ejected(self) -> frozenset[str]:
        """Return the names of those that are out."""
        return frozenset(self.out)

    @property
    def said(self) -> dict[str, Status]:
        """Return what instances said of themselves, by name."""
        return {name: seen.status for name, seen in self.instances.items() if seen.status is not None}

    def seen(self, name: str) -> ObservedInstance:
        """Return what is known of an instance."""
        return self.instances.get(name, _UNSEEN)
