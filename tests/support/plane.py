"""The data plane alone, in boxes: rules as the plan loads them, small servers behind them, clients in another box."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from portfleet.core.desired import Desired, DesiredService
from portfleet.core.journal import Journal
from portfleet.core.observed import Observed, ObservedInstance, Out
from portfleet.core.plan import make_plan, transactions
from portfleet.core.records import ServiceRecord
from portfleet.core.routing import moved, route
from portfleet.dataplane.nft.plane import NftPlane
from support import warm
from support.fleets import PATHS, fleet
from support.netns import network_of
from support.sandbox import HOST4, HOST6, Sandbox, sandbox

HERE = Path(__file__).parent
#: Four instances on this box.
ECHO = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}"]
ports = "7100-7115"
instances = 4
"""


@dataclass
class Plane:
    """Rules in a box. ``desired`` is what was loaded last.

    ``starters`` started the answering servers, ``pids`` are the servers by name, as the box numbers them.
    """

    boxes: Sandbox
    kernel: NftPlane
    desired: Desired = field(init=False)
    starters: list[subprocess.Popen[str]] = field(default_factory=list)
    pids: dict[str, str] = field(default_factory=dict)

    def load(self, text: str = ECHO, journal: Journal | None = None, *, out: Iterable[str] = ()) -> list[str]:
        """Make the rules what ``text`` and ``journal`` ask, all ready but ``out``; return the plan's words."""
        from portfleet.core.derive import make_desired

        self.desired = make_desired(fleet(text), journal or self.journal, PATHS)
        plan = make_plan(self.desired, self.observed(out))
        for _, transaction in transactions(plan.steps, self.desired, self.kernel.observe()):
            self.kernel.run(transaction)
        return plan.describe()

    def is_as_wanted(self) -> bool:
        """Return whether nothing is left to do to the rules."""
        plan = make_plan(self.desired, self.observed())
        return not list(transactions(plan.steps, self.desired, self.kernel.observe()))

    def plan(self, out: Iterable[str] = ()) -> list[str]:
        """Return what would be done, in words."""
        return make_plan(self.desired, self.observed(out)).describe()

    def observed(self, out: Iterable[str] = ()) -> Observed:
        """Return the kernel as it is, with every instance ready but ``out``, who are ejected."""
        return Observed(
            plane=self.kernel.observe(),
            instances={
                want.name: ObservedInstance("RUNNING", ready=True)
                for service in self.desired.services.values()
                for want in service.running
            },
            out=dict.fromkeys(out, Out("died", "", "")),
            at=time.time(),
        )

    @property
    def journal(self) -> Journal:
        """The journal as it goes with what was loaded last."""
        return self.desired.journal if hasattr(self, "desired") else Journal()

    def record(self, **changes: Any) -> Journal:
        """Return the journal with the only service's record changed."""
        name = next(iter(self.desired.services))
        record: ServiceRecord = replace(self.journal.services[name], **changes)
        return self.journal.with_service(name, record)

    @property
    def want(self) -> DesiredService:
        """The only service."""
        return next(iter(self.desired.services.values()))

    def point(self, out: Iterable[str] = (), *, probed_out: bool = False) -> int:
        """Point the only service's slots at every instance but ``out``; return how many moved."""
        want = self.want
        slots = self.kernel.read_slots(want.name)
        change = route(want, slots, out=frozenset(out), probed_out=probed_out)
        self.kernel.run((change,))
        return moved(slots, change.table)

    def serve(self, *flags: str, names: Iterable[str] = ()) -> None:
        """Start an answering server for each local instance of the live colour, or for ``names``."""
        chosen, servers = set(names), []
        for want in self.desired.instances():
            live = want.instance.colour == self.desired.services[want.instance.service].live
            if want.name in chosen if chosen else live:
                servers.append(f"{want.name}:{want.rule.port}")
        starter = self.boxes.host.popen("/usr/bin/python3", str(HERE / "answerer.py"), *servers, *flags)
        self.starters.append(starter)
        assert starter.stdout is not None
        for _ in servers:
            said = starter.stdout.readline().split()
            assert said, f"not all of {servers} listen"
            self.pids[said[0]] = said[1]

    def signal(self, name: str, what: str) -> None:
        """Send a signal such as KILL to a server."""
        self.boxes.host.run("kill", f"-{what}", self.pids[name])

    def ask(self, sources: Sequence[Any], *, port: int = 7000, **job: Any) -> list[dict[str, Any]]:
        """Connect once from each source, an address or [address, port]; gives the clients' reports in that order."""
        found: dict[str, dict[str, Any]] = {}
        for host in (HOST4, HOST6):
            some = [source for source in sources if (":" in address_of(source)) == (":" in host)]
            if some:
                wanted = {"to": [host, port], "sources": some, "message": "x\n"} | job
                text = json.dumps(wanted) + "\n"
                done = warm.run(self.boxes.clients, "support.clients", "ask", text=text, timeout=120)
                found |= {json.dumps(report["source"]): report for report in json.loads(done.stdout)}
        return [found[json.dumps(source)] for source in sources]

    def met(self, sources: Sequence[Any], **job: Any) -> dict[str, str | None]:
        """Return {source: instance that answered}; None if none did."""
        reports = self.ask(sources, **job)
        return {address_of(r["source"]): r["reply"].split()[0] if r["reply"] else None for r in reports}


@dataclass
class Load:
    """Clients that hold connections and make new ones; ``report`` is there when the block has ended."""

    process: subprocess.Popen[str]
    report: dict[str, Any] = field(default_factory=dict)

    def so_far(self) -> dict[str, int]:
        """Return what the clients have met by now (see clients.py)."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("so far\n")
        self.process.stdin.flush()
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found

    @property
    def lost(self) -> list[dict[str, Any]]:
        """The held connections that broke."""
        return [one for one in self.report["held"] if one["error"] is not None]

    @property
    def seen(self) -> Counter[str]:
        """How many held connections each instance answered; each must have met one instance only."""
        assert all(len(one["seen"]) == 1 for one in self.report["held"]), self.report
        return Counter(one["seen"][0] for one in self.report["held"])


@contextmanager
def load(made: Plane, sources: Sequence[str], *, host: str = HOST4, **job: Any) -> Iterator[Load]:
    """Hold a talking connection from each source (see clients.py) while the block runs."""
    wanted = {"to": [host, 7000], "sources": list(sources), "message": "{id}\n", "interval": 0.2} | job
    process = made.boxes.clients.popen("/usr/bin/python3", str(HERE / "clients.py"), "hold")
    assert process.stdin is not None and process.stdout is not None
    found = Load(process)
    try:
        process.stdin.write(json.dumps(wanted) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "up\n", "not every held connection was made"
        yield found
        out, _ = process.communicate("\n", timeout=120)
        found.report |= json.loads(out)
    finally:
        close(process)


def address_of(source: Any) -> str:
    """Return the address of a source."""
    return str(source[0]) if isinstance(source, list) else str(source)


@contextmanager
def plane(memory: Path, *, other: bool = False) -> Iterator[Plane]:
    """Return an empty data plane; this thread is in the host's network until the block ends."""
    with sandbox(other=other) as boxes, network_of(boxes.host):
        made = Plane(boxes, NftPlane(memory))
        try:
            yield made
        finally:
            for starter in made.starters:
                close(starter)


def close(process: subprocess.Popen[str]) -> None:
    """Let go of a program in a box; it ends with the box."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def explained(made: Plane, service: str, reports: Iterable[Mapping[str, Any]]) -> list[str | None]:
    """Return the instance that each client's connection gets by computation."""
    import ipaddress

    from portfleet.dataplane.nft.affinity import slot_for

    want, slots = made.desired.services[service], made.kernel.read_slots(service)
    found = []
    for report in reports:
        address = ipaddress.ip_address(address_of(report["source"]))
        slot = slot_for(want.service.affinity, address, report["port"], seed=want.rule.seed, slots=want.rule.slots)
        assert slot is not None
        found.append(slots[slot])
    return found
