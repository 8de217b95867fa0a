"""The states of an instance, in the words operators see, and the one function that derives them."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What an instance is now."""

    STOPPED = "stopped"  #: no process
    STARTING = "starting"  #: the process runs, it is not ready yet
    READY = "ready"  #: takes connections
    DRAINING = "draining"  #: no new connections; old ones may finish, are evicted or handed off
    DRAINED = "drained"  #: no new connections and none left
    MAINTENANCE = "maintenance"  #: drained on purpose; nothing starts it again by itself
    EJECTED = "ejected"  #: taken out because it died or failed its probe; comes back by itself
    FAILED = "failed"  #: cannot serve: crash loop, wrong address, broken config


class Wanted(StrEnum):
    """What the config and the journal ask of an instance."""

    SERVING = "serving"
    IDLE = "idle"
    DRAINED = "drained"
    MAINTENANCE = "maintenance"
    STOPPED = "stopped"


class Presence(StrEnum):
    """Whether one of the two processes that look after a fleet, supervisord and the watcher, does so."""

    RUNNING = "running"  #: answers
    STARTING = "starting"  #: there, and does not listen yet
    ENDING = "ending"  #: shuts down, and takes no orders any more
    SUSPENDED = "suspended"  #: held by a signal (SIGSTOP)
    UNREACHABLE = "unreachable"  #: there, but its socket was removed
    HUNG = "hung"  #: there, and did not answer in time
    ABSENT = "absent"  #: not there


#: supervisord's process states (in its capitals) in which a process exists.
RUNNING = frozenset({"STARTING", "RUNNING", "STOPPING"})
#: … and in which it has not been told to end.
UP = frozenset({"STARTING", "RUNNING"})
#: … and in which supervisord will not start it again by itself.
AT_REST = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})


def state_of(
    *,
    wanted: Wanted,
    program: str | None,
    ready: bool,
    fault: str | None,
    slots: int,
    connections: int,
    ejected: bool,
    looping: bool = False,
    remote: bool = False,
) -> State:
    """Derive an instance's state from what is observed.

    ``program`` is supervisord's state (None: it does not know the program, or the instance is ``remote``); ``ready``
    tells whether it takes connections on its port; ``fault`` is why it never will be ready as it is (None: no such
    reason); ``looping``: the watcher has it wait for its next start. Whether a process runs on another box cannot be
    told: one that is not ready is taken to be starting.
    """
    if program == "FATAL" or fault or (looping and program in AT_REST):
        return State.FAILED
    if ejected:
        return State.EJECTED
    running = program in RUNNING or remote
    if not running:
        if wanted is Wanted.MAINTENANCE:
            return State.MAINTENANCE
        return State.STARTING if program == "BACKOFF" else State.STOPPED
    if wanted in (Wanted.DRAINED, Wanted.MAINTENANCE, Wanted.STOPPED) or program == "STOPPING":
        drained = State.MAINTENANCE if wanted is Wanted.MAINTENANCE else State.DRAINED
        return State.DRAINING if slots else still_draining(drained, connections)
    return State.READY if ready else State.STARTING


def still_draining(state: State, connections: int) -> State:
    """Return ``state`` of an instance without slots, which drains as long as its process has ``connections``."""
    return State.DRAINING if connections and state in (State.DRAINED, State.MAINTENANCE) else state
