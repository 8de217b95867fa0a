"""Decides who is out: deaths, probes, and the policy for when no instance would be left. The ejector does it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from portfleet.core.errors import PortfleetError
from portfleet.core.observed import ObservedInstance, Out
from portfleet.core.status import Status
from portfleet.linux.sockdiag import Ends
from portfleet.store.log import Log
from portfleet.watch.dealer import Dealer, again
from portfleet.watch.ejector import Ejector, fresh
from portfleet.watch.health import all_out
from portfleet.watch.listeners import Listeners
from portfleet.watch.prober import Prober
from portfleet.watch.roster import Member, Roster

#: Seconds after its end from which it is said why an instance that runs again is not let in.
_LONG = 10.0


class Judge:
    """Ejects and admits members. Everything it does is one event of the loop; nothing waits."""

    def __init__(
        self, *, roster: Roster, ejector: Ejector, log: Log, blind: Callable[[], str],
        forget: Callable[[Iterable[Ends]], None], pid_of: Callable[[str], int | None],
    ) -> None:  # fmt: skip
        """``blind`` says why probes prove nothing at the moment ("": they do), ``pid_of`` an instance's process.

        ``forget`` has the data plane forget connections of probes that have ended.
        """
        self._roster, self._ejector, self._log, self._blind, self._forget = roster, ejector, log, blind, forget
        self._loop = asyncio.get_running_loop()
        self._pid_of = pid_of
        self._prober = Prober(self._told, time.monotonic, pid_of, log.unexpected)
        ejector.let_in = self.let_in
        self._dealer = Dealer(roster=roster, ejector=ejector, log=log, dealt=self.aim)
        #: Members whose probes fail but that serve on, because otherwise none would.
        self.kept: set[str] = set()

    def tick(self) -> float:
        """Go on with the probes; return the seconds until there is something to do again."""
        wait = self._prober.tick()
        if self._prober.ended:
            ended, self._prober.ended = self._prober.ended, []
            self._forget(ended)
        return wait

    def look(self, name: str) -> None:
        """Probe a member now, besides its turns."""
        self._prober.ask(name)

    @property
    def listeners(self) -> Listeners:
        """Return who listens on this machine."""
        return self._prober.listeners

    @property
    def said(self) -> Mapping[str, Status]:
        """Return what daemons that tell said last of themselves, by instance."""
        return self._prober.said

    @property
    def counted(self) -> Mapping[str, Status]:
        """Return what daemons that count said last of that, by instance; asking for it has them asked again."""
        return self._prober.counted()

    @property
    def answered_in(self) -> Mapping[str, float]:
        """Return how many seconds the last probe took that succeeded, by instance."""
        return self._prober.took

    def reloaded(self) -> None:
        """Take in what the roster read: members without slots wait until they are ready, all others are probed."""
        desired = self._roster.desired
        if desired is None:
            return
        takers = [m for m in self._roster.members.values() if m.want.takes and m.name not in self._ejector.out]
        new = [member for member in takers if member.name not in self._ejector.table(member.service.name)]
        for service in {member.service.name for member in new}:
            self._ejector.table(service, anew=True)
        found = [member.name for member in new if member.name not in self._ejector.table(member.service.name)]
        self._ejector.settle(desired, new=found)
        self.kept &= self._roster.members.keys()
        self.aim()

    def aim(self) -> None:
        """Probe those that serve or came out by probes; who died is looked at until ready instead."""
        out, pending = self._ejector.out, self._ejector.pending
        probed = []
        for name, member in self._roster.members.items():
            if member.want.takes and name not in pending and (name not in out or out[name].kind == "probe"):
                member.judged(out=name in out)
                probed.append(member.target())
            else:
                member.unprobed()
        self._prober.aim(probed)

    def let_in(self) -> None:
        """Probe members that commands have let in, at once: what they say of themselves is not known yet."""
        self.aim()
        for name, member in self._roster.members.items():
            if not member.spoke:
                self._prober.ask(name)

    async def looked_at(self, found: Mapping[str, ObservedInstance]) -> None:
        """Let members in that were seen to be ready, a service's all at once, and say why others cannot serve."""
        ready: dict[str, list[Member]] = {}
        for name, seen in found.items():
            with self._log.costs(name):
                if (member := self._looked_at(name, seen)) is not None:
                    ready.setdefault(member.service.name, []).append(member)
        for service, members in ready.items():
            with self._log.costs(service):
                self.admit(members, "ready")
            await asyncio.sleep(0)  # each of many services takes some ms, and a death comes first

    def _looked_at(self, name: str, seen: ObservedInstance) -> Member | None:
        """Return the member if it is ready; otherwise say why it cannot serve."""
        member = self._roster.members.get(name)
        if member is None:
            return None
        if seen.status is not None:
            member.spoke = True
        if seen.ready and (not member.local or self._pid_of(name) == seen.pid):
            return member
        if seen.fault:
            self._log.once("cannot-serve", about=name, instance=name, reason=seen.fault)
            self._ejector.note(name, seen.fault)
        elif member.died_at and time.monotonic() > member.died_at + _LONG:
            reason = seen.waiting or f"supervisord has it as {seen.program}, process {seen.pid}"
            self._log.once("not-ready", about=name, instance=name, reason=reason)
        return None

    def died(self, member: Member, reason: str) -> None:
        """A member's process has ended: out in the same moment, its slots dealt right after all such moments."""
        name = member.name
        member.hung_since = None
        self.kept.discard(name)
        if not member.want.takes or self.waits(member):
            # Once for each end: one that never came up is looked at many times a second.
            self._log.once("process-ended", about=name, instance=name, wanted=member.want.wanted, reason=reason)
            if not member.want.takes:
                self._lead_on(member)
            return
        known = self._ejector.out.get(name)
        if known is not None and known.kind == "died":
            return
        self._eject(member, fresh("died", reason))

    def waits(self, member: Member) -> bool:
        """Return whether a member is new and has no slots; a command may have given it some if no other could serve."""
        name = member.name
        return name in self._ejector.pending and name not in self._ejector.table(member.service.name, anew=True)

    def _told(self, name: str, trouble: str, by_port: bool) -> bool:
        with self._log.costs(name):
            return self.probed(name, trouble, by_port)
        return False  # an unexpected error, which is logged

    def probed(self, name: str, trouble: str, by_port: bool) -> bool:
        """Take one probe's result ("" is a success); ``by_port``: nothing but a connection to the port failed.

        Return whether another success would change nothing.
        """
        member = self._roster.members.get(name)
        if member is None:
            return False
        member.spoke |= name in self._prober.said
        trouble = trouble or member.beside
        if not trouble or trouble == member.beside:
            member.hung_since = None
        elif by_port and (why := self._blind()):
            # Such a probe is a new connection too: all instances would fail at once, none of them ill.
            self._log.once("blind", reason=why)
            return False
        elif member.hung_since is None:
            member.hung_since = time.monotonic()
        if not trouble and self._log.over("blind"):
            self._log("probes-count", reason="they are judged again")
        if member.health.note(trouble):
            self._flipped(member)
        return member.steady

    def admit(self, members: Sequence[Member], reason: str) -> None:
        """Let members of one service take connections again, by one change of the data plane."""
        service, out = members[0].service, {member.name: self._ejector.out.get(member.name) for member in members}
        try:
            slots = self._ejector.admit(service, *out)
        except PortfleetError as error:
            for name in out:
                self._log.once("cannot-admit", about=name, instance=name, reason=error.message.splitlines()[0])
                self._loop.call_later(again(error), self._admit_again, name, reason)
            return
        now = time.monotonic()
        for member in members:
            name, was = member.name, out[member.name]
            for trouble in ("cannot-admit", "cannot-serve", "not-ready"):
                self._log.over(trouble, about=name)
            away = f"{now - member.died_at:.2f}s" if was and was.kind == "died" and member.died_at else "-"
            member.health.healthy, member.health.streak, member.served_at = True, 0, now
            self._log("serving", instance=name, slots=slots[name], reason=reason, away=away)
        self.aim()
        self._judge_kept(service.name)

    def _admit_again(self, name: str, reason: str) -> None:
        """Admit a member that could not be: of one that died, the next look finds out whether it is ready."""
        member, out = self._roster.members.get(name), self._ejector.out.get(name)
        if member is not None and out is not None and out.kind == "probe" and member.health.healthy:
            self.admit([member], reason)

    def _flipped(self, member: Member) -> None:
        name = member.name
        if member.health.healthy:
            self.kept.discard(name)
            if name in self._ejector.out:
                self.admit([member], "answers its probes again")
            else:
                self._log("recovered", instance=name, reason="answers its probes again")
            return
        self._fail(member)

    def _fail(self, member: Member) -> None:
        serving = {i.name for i in member.service.instances if i.takes and i.name not in self._ejector.pending}
        name, trouble = member.name, member.health.reason
        if member.service.service.when_empty == "keep" and all_out(serving, set(self._ejector.out), name):
            if name not in self.kept:
                self._log("kept", instance=name, reason=f"{trouble}; the last of {member.service.name} that serves")
            self.kept.add(name)
            return
        self.kept.discard(name)
        self._eject(member, fresh("probe", trouble))

    def _judge_kept(self, service: str) -> None:
        """An instance is back: those that were kept only because no other was left go now."""
        for name in sorted(self.kept):
            member = self._roster.members[name]
            if member.service.name == service and not member.health.healthy:
                self._fail(member)

    def _lead_on(self, member: Member) -> None:
        """See to the slots of a member that is not wanted any more, if it has some left."""
        try:
            led = self._ejector.lead_on(member.service, member.want)
        except PortfleetError as error:
            self._log("cannot-eject", instance=member.name, reason=error.message.splitlines()[0])
            led = True
        if led:
            self._dealer.soon(member.service.name)

    def _eject(self, member: Member, entry: Out) -> None:
        known = member.name in self._ejector.out
        try:
            took = self._ejector.eject(member.service, member.want, entry)
        except PortfleetError as error:
            self._log("cannot-eject", instance=member.name, reason=error.message.splitlines()[0])
            took = None
        self._dealer.soon(member.service.name, diverted=took is not None)
        if took is not None and not known:
            member.ejected[entry.kind] += 1
            self._log("ejected", instance=member.name, reason=entry.reason, took_ms=f"{took * 1000:.2f}")
