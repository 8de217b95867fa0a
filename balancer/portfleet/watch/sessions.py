"""Who is logged in to the page: sessions, begun by the token, and how often a wrong one may be tried.

All of it lies in memory: a watcher that starts anew knows no session.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from portfleet.core.errors import PortfleetError

#: Seconds after which a session ends: unused, and in any case.
IDLE, LONGEST = 1800.0, 8 * 3600.0
#: Seconds for which wrong tokens count; how many may be tried in that time from one network, and from all.
_WINDOW, _FROM_ONE, _FROM_ALL = 60.0, 5, 20
#: Sessions at a time, and plans of each that can be confirmed; further ones replace the oldest.
_SESSIONS, _PLANS = 32, 8
#: Seconds for which a plan that was shown can be confirmed.
_PLAN = 300.0


class NoSession(PortfleetError):
    """Who asks is not logged in, or not any more."""


class Refused(PortfleetError):
    """The token is wrong, or too many were; ``first``: of the first wrong one of a network within a minute."""

    def __init__(self, message: str, *, first: bool = False) -> None:
        super().__init__(message)
        self.first = first


@dataclass(frozen=True)
class Plan:
    """What was shown: the verb and its target, and the ``state`` of the service that it was made of."""

    words: tuple[str, ...]
    state: Hashable
    at: float


@dataclass
class Session:
    """One browser, from ``began`` on (monotonic), logged in with the token of the digest ``token``."""

    token: bytes
    began: float
    used: float
    plans: dict[str, Plan] = field(default_factory=dict)


class Sessions:
    """The sessions; ``clock`` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._wrong = clock, _Wrong(clock)
        #: By the digest of what the browser holds: how long it takes to find one tells nothing of another.
        self._sessions: dict[bytes, Session] = {}

    def begin(self, given: str, *, token: bytes, address: str) -> str:
        """Return what the browser is to hold; raise Refused if ``given`` is not ``token``, or for too many wrong ones.

        The tokens' digests are compared, in a time that tells nothing of either.
        """
        self._wrong.refuse(address)
        if not hmac.compare_digest(_digest(given.encode(errors="replace")), _digest(token)):
            raise Refused("the token is wrong", first=self._wrong.note(address))
        now, held = self._clock(), secrets.token_urlsafe(32)
        self._sessions = {key: one for key, one in self._sessions.items() if self._goes_on(one)}
        while len(self._sessions) >= _SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[_digest(held.encode())] = Session(_digest(token), now, now)
        return held

    def of(self, held: str, *, token: bytes) -> Session:
        """Return the session of a browser; raise NoSession if it has none, or another token counts since."""
        key = _digest(held.encode(errors="replace"))
        found = self._sessions.get(key)
        if found is None or not self._goes_on(found) or not hmac.compare_digest(found.token, _digest(token)):
            self._sessions.pop(key, None)
            raise NoSession("no session: give the token")
        found.used = self._clock()
        return found

    def end(self, held: str) -> None:
        """End the session of a browser, if it has one."""
        self._sessions.pop(_digest(held.encode(errors="replace")), None)

    def offer(self, session: Session, words: tuple[str, ...], state: Hashable) -> str:
        """Return the ticket by which a session confirms, once, what it was shown."""
        ticket = secrets.token_urlsafe(16)
        while len(session.plans) >= _PLANS:
            del session.plans[next(iter(session.plans))]
        session.plans[ticket] = Plan(words, state, self._clock())
        return ticket

    def take(self, session: Session, ticket: str) -> Plan:
        """Return the plan of a ticket, which is used up by that; raise PortfleetError if it is none, or too old."""
        plan = session.plans.pop(ticket, None)
        if plan is None or self._clock() - plan.at > _PLAN:
            raise PortfleetError("this plan was confirmed already, or shown too long ago; nothing was done")
        return plan

    def _goes_on(self, session: Session) -> bool:
        now = self._clock()
        return now - session.used < IDLE and now - session.began < LONGEST


class _Wrong:
    """When wrong tokens were tried, and from which networks (an IPv6 address stands for its /64)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tried: deque[tuple[float, str]] = deque()

    def refuse(self, address: str) -> None:
        """Raise Refused if there were too many within the last minute."""
        now, network = self._clock(), _network(address)
        while self._tried and now - self._tried[0][0] > _WINDOW:
            self._tried.popleft()
        mine, every = [at for at, by in self._tried if by == network], [at for at, _ in self._tried]
        for tried, most in ((mine, _FROM_ONE), (every, _FROM_ALL)):
            if len(tried) >= most:
                left = round(tried[-most] + _WINDOW - now) + 1
                raise Refused(f"too many wrong tokens; try again in {left} s")

    def note(self, address: str) -> bool:
        """Note one, after `refuse`; return whether it is the first of its network."""
        network = _network(address)
        first = all(by != network for _, by in self._tried)
        self._tried.append((self._clock(), network))
        return first


def plain(address: str) -> str:
    """Return an address in one form; "?" for what is none. A socket of both families tells IPv4 as ::ffff:192.0.2.1."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "?"
    return str(getattr(found, "ipv4_mapped", None) or found)


def _network(address: str) -> str:
    known = plain(address)
    return str(ipaddress.ip_network((known, 64), strict=False)) if ":" in known else known


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
