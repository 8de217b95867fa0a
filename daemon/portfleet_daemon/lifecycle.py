"""The states of a daemon and how they follow each other.

starting → ready when the port listens; ready → draining by `drain`, SIGTERM or a hand-off of the listener;
draining → ready by `resume`; anything → stopped at the end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from enum import Enum

from portfleet_daemon.log import log


class State(Enum):
    """What the control socket calls the daemon."""

    STARTING = "starting"  #: not listening yet
    READY = "ready"  #: takes and serves connections
    DRAINING = "draining"  #: wants no new connections; the old ones finish, are evicted or handed off
    STOPPED = "stopped"  #: no connections, about to exit


TRANSITIONS: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.READY, State.STOPPED}),
    State.READY: frozenset({State.DRAINING, State.STOPPED}),
    State.DRAINING: frozenset({State.READY, State.STOPPED}),
    State.STOPPED: frozenset(),
}


class Lifecycle:
    """Holds the state; `enter` is the one place that changes it."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.state = State.STARTING
        self._notify = notify

    def enter(self, state: State) -> bool:
        """Go to `state`, log it and tell systemd; return False if it is the state already. Raise ValueError."""
        if state is self.state:
            return False
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"no way from {self.state.value} to {state.value}")
        log("state", **{"from": self.state.value, "to": state.value})
        self.state = state
        if state is State.READY:
            self._notify("READY=1\nSTATUS=ready")
        elif state is State.DRAINING:
            self._notify("STATUS=draining")
        elif state is State.STOPPED:
            self._notify("STOPPING=1\nSTATUS=stopped")
        return True


def notify_systemd(message: str) -> None:
    """Send a datagram to $NOTIFY_SOCKET, if set (sd_notify(3)); a leading @ means the abstract namespace."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(message.encode(), address)
        except OSError as error:
            log("notify-failed", socket=path, error=error)
