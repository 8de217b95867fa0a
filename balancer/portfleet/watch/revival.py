"""Brings processes back: what supervisord has given up, what it does not know, what hangs.

supervisord restarts a process that ended by itself. Left to the watcher are crash loops (FATAL is for good there), a
process that was adopted and has ended, and one that hangs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from portfleet.core.paths import Paths
from portfleet.core.program import CONFIG_EXIT
from portfleet.core.states import AT_REST
from portfleet.store.log import Log
from portfleet.supervise.exit_report import Ended, last_exit, last_lines
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.deaths import Deaths
from portfleet.watch.ejector import Ejector
from portfleet.watch.retries import Retries
from portfleet.watch.roster import Member, Roster
from portfleet.watch.starts import Starts


class Revival:
    """Starts members again, later and later when they do not stay up."""

    def __init__(
        self, *, paths: Paths, roster: Roster, ejector: Ejector, deaths: Deaths, log: Log,
        starts: Starts, wake: Callable[[], None], give_up: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._paths, self._roster, self._ejector, self._deaths = paths, roster, ejector, deaths
        self._log, self._starts, self._wake, self._give_up = log, starts, wake, give_up
        #: Those that wait for their next start.
        self.retries = Retries(paths)
        self._starting: dict[str, asyncio.Task[None]] = {}

    def ended(self, member: Member) -> None:
        """Take in how long a member lived whose end was not asked for; in a crash loop each start waits longer."""
        member.backoff.lived(self._deaths.lived.get(member.name, 0.0))
        if member.backoff.looping:
            self._give_up(member.name)

    def look(self, member: Member, info: ProgramInfo | None) -> None:
        """See to a member without a process, as supervisord has it (None: it does not know it)."""
        name, now = member.name, time.monotonic()
        if not member.startable or name in self._starting or self._roster.busy(member.service.name):
            return
        if info is None:
            if member.backoff.ready(now):
                self._begin(member, "supervisord does not know it")
            return
        if info.state not in AT_REST:
            return
        if member.backoff.due is None:
            # Of one that a signal ended supervisord says -1.
            known = info.state == "EXITED" and info.exit_status >= 0
            ended = Ended(info.exit_status) if known else last_exit(self._paths, name)
            if ended == Ended(CONFIG_EXIT) and member.spoke:
                reason = "its config is broken (exit status 2); it stays down until: portfleet restart"
                self._log.once("stays-down", about=name, instance=name, last_exit=str(ended), reason=reason)
                self._ejector.note(name, reason)
                self.retries.wait(name, reason)
                return
            # Which supervisord leaves to us; after any other end it starts it again itself.
            if info.state == "EXITED" and not member.backoff.looping:
                self._begin(member, f"ended with {ended}")
                return
            wait = member.backoff.schedule(now)
            self._log(
                "given-up",
                instance=name,
                state=info.state,
                last_exit=str(ended or ""),
                try_number=member.backoff.tries,
                again_in=f"{wait:.1f}s",
                reason=info.error or "it does not stay up",
                last_log=" | ".join(last_lines(self._paths.log_of(name))),
            )
            last = f", ended last with {ended}" if ended else ""
            self._ejector.note(name, f"crash loop{last}")
            self.retries.wait(name, f"crash loop{last}", attempt=member.backoff.tries, seconds=wait)
        elif member.backoff.is_due(now):
            self._begin(member, f"try {member.backoff.tries} after {info.state}")

    def hung(self, member: Member) -> None:
        """End a member whose probes have failed for ``restart_after``; supervisord starts it again."""
        after, since = member.service.service.probe.restart_after, member.hung_since
        if after is None or since is None or not member.local or time.monotonic() - since < after:
            return
        if member.health.healthy or not self._deaths.kill(member.name):
            return
        member.hung_since = None
        self._log("restarting", instance=member.name, reason=f"hung for {after:.0f} s: {member.health.reason}")

    def _begin(self, member: Member, reason: str) -> None:
        self._log("starting", instance=member.name, reason=reason)
        self._starting[member.name] = asyncio.create_task(self._start(member))

    async def _start(self, member: Member) -> None:
        trouble = await self._starts.start(member.name)
        del self._starting[member.name]
        if trouble:
            wait = member.backoff.schedule(time.monotonic())
            self._log("cannot-start", instance=member.name, reason=trouble)
            self.retries.wait(member.name, f"cannot start: {trouble}", attempt=member.backoff.tries, seconds=wait)
        self._wake()
