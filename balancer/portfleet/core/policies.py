"""What is asked for instances, and for boxes: how health is asked, what happens to connections, where packets go.

As in core/model a key's default stands with its field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from portfleet.core.value import value

Then = Literal["wait", "evict", "kill"]


@value
class Probe:
    """How an instance's health is asked. Times are in seconds.

    At most one of ``send``, ``http`` (a path) and ``exec`` (a command) is set; without one it is the daemon's default.
    ``status``: of HTTP, None for 200 to 399; the exit status of a command, None for 0.
    """

    send: str | None = None
    expect: str | None = None
    http: str | None = None
    exec: tuple[str, ...] = ()
    status: int | None = None
    interval: float = 1.0
    timeout: float = 0.5
    fall: int = 3
    rise: int = 2
    restart_after: float | None = None

    @property
    def asks(self) -> bool:
        """Return whether a daemon that hangs fails it: the kernel accepts connections for any process that listens."""
        return self.send is not None or self.http is not None or bool(self.exec)


@value
class Drain:
    """What happens to established connections of a drained instance: evicted per second, and the end of patience.

    ``rate`` None: none is closed before the deadline.
    """

    rate: int | None = None
    deadline: float = 600.0
    then: Then = "wait"


@value
class Forward:
    """What every box of several sends on, and to which; the order of ``boxes`` counts (see `core.forwarding`).

    ``addresses`` are those that clients dial, ``boxes`` {name: the box's own addresses}. The rest are names of boxes:
    ``draining`` get no new connections, ``out`` get nothing, ``returning`` get new ones again.
    ``devices`` empty: those by which the other boxes are reached.
    """

    addresses: tuple[str, ...] = ()
    boxes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    draining: tuple[str, ...] = ()
    out: tuple[str, ...] = ()
    returning: tuple[str, ...] = ()
    slots: int = 4096
    devices: tuple[str, ...] = ()
