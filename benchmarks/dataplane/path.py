"""What the rules cost a packet: connects and requests under these rules and under those of another version, in turn.

One box of namespaces with four instances, clients in another and a second box behind it. Every round loads each ruleset
once, in the order A B C, C B A, B C A …, and measures under each, from short turns, three ways: `service`, connections
to the fleet; `other`, to a daemon of the same box that is none of the fleet's; `forwarded`, through the box to another.
The rulesets: `new`, this tree's; `old`, those of the code of the commit `--against`; `control`, the old ones again: its
ratio to `old` shows what the run can tell; `new+keeper` and `old+keeper`, with those that stand beside them as long as
a watcher runs; `conntrack`, one rule that has connections tracked, as a firewall would; `none`. Clients and servers
share one thread and one CPU (benchmarks/lib/crossing.c): no scheduler is timed, so a real request, which waits for one
several times, notices less.

A ratio is the median of those within the rounds, how many times longer a ruleset takes than `old` (with the keeper:
than `old+keeper`); beside it the interval in which that median is with 95 % (bootstrap). Writes
benchmarks/results/dataplane-path.json. Exits 1 if the service takes over 1 % longer by `new`, 2 if the control differs
by as much, so that the run proves nothing. Needs root, a C compiler; three minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lib.build import ROOT, compile_c
from benchmarks.lib.measure import CLIENT_CPU, environment, save

sys.path.insert(0, str(ROOT / "tests"))

from portfleet.dataplane.nft.context import NftContext
from support.netns import network_of
from support.plane import ECHO, Plane, plane
from support.sandbox import CLIENT4, HOST4, OTHER4, Box

WORST = 1.01
SERVICE, OTHER = 7000, 9000
CONNECTS, ASKS, WARM = 200, 400, 20
TRACKED = "table inet plain {\n chain new {\n type nat hook prerouting priority dstnat\n ct state new counter\n }\n}\n"
#: `--each` puts 20 copies of one of these before the rules of `admit`; none of them decides anything.
EACH = {
    "fails its first test": "meta l4proto udp drop",
    "vmap @limits (empty)": "ct status dnat tcp dport vmap @limits",
    "@ports (an interval)": "tcp dport @ports continue",
    "@listened": "tcp dport @listened continue",
    "vmap @services4 (empty)": "ip daddr . tcp dport vmap @services4",
    "fib daddr type": "fib daddr type local continue",
    "socket transparent": "socket transparent 1 drop",
}
COPIES = 20
#: What a chain costs that every packet to this box passes, by the one rule in it.
CHAINS = {
    "a chain without a rule": "",
    "a chain whose rule fails": "ct state new,invalid tcp dport 1 drop",
    "a chain whose rule accepts": "ct state established accept",
}
#: Run by the code of a version, prints its rules of the same fleet, and those of its keeper (owned by no process here).
_RENDER = f"""
import pathlib, sys, tempfile
from portfleet.dataplane.nft.keeper import Keeper
from support.plane import plane
with tempfile.TemporaryDirectory() as folder, plane(pathlib.Path(folder) / "rules.json") as made:
    made.load({ECHO!r})
    keeper = Keeper()
    keeper.ensure(())
    for table in "portfleet", "portfleet-keeper":
        text = made.boxes.host.run("nft", "list", "table", "inet", table).stdout
        print(text.replace("flags owner\\n", ""), end="\\0")
"""
#: {(way, what, measure): {ruleset: its value in each round}}
Found = dict[tuple[str, str, str], dict[str, list[float]]]


@dataclass(frozen=True)
class Crossing:
    """A pair of client and server; ``to`` is what the client dials."""

    process: subprocess.Popen[str]
    to: str

    def order(self, words: str) -> str:
        """Have it do something; return what it answers. Raise RuntimeError if it ends instead."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(f"no answer to {words!r}")
        return answer

    def measure(self, first: int) -> dict[tuple[str, str], float]:
        """Return {(what, measure): nanoseconds} of a turn; ``first`` numbers the clients."""
        self.order(f"connect {self.to} {WARM} {first}")
        connect = self.order(f"connect {self.to} {CONNECTS} {first + WARM}").split()
        self.order(f"hold {self.to}")
        self.order(f"ask {WARM}")
        ask = self.order(f"ask {ASKS}").split()
        times = {("connect", "p50"): connect[0], ("connect", "rate"): connect[1]}
        return {
            key: float(time)
            for key, time in (times | {("request", "p50"): ask[0], ("request", "rate"): ask[1]}).items()
        }


@contextmanager
def crossing(clients: Box, servers: Box, to: str, *ports: int) -> Iterator[Crossing]:
    """Run a pair whose server listens on ``ports``; it ends with the block."""
    networks = [f"/proc/{box.pid}/ns/net" for box in (clients, servers)]
    argv = [str(compile_c("crossing", "benchmarks/lib/crossing.c")), *networks, *map(str, ports)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "up\n"
            yield Crossing(process, to)
        finally:
            process.kill()


def rules_of(commit: str) -> tuple[str, str]:
    """Return the rules that a commit's code makes, and its keeper's."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(checkout), commit], check=True)
        try:
            return rendered(checkout)
        finally:
            subprocess.run([*git, "remove", "--force", str(checkout)], check=True)


def rendered(tree: Path) -> tuple[str, str]:
    """Return the rules that the code in ``tree`` makes, and its keeper's."""
    path = {"PYTHONPATH": f"{tree}/balancer:{tree}/tests"}
    argv = [sys.executable, "-c", _RENDER]
    done = subprocess.run(argv, env=os.environ | path, stdout=subprocess.PIPE, text=True, check=True)
    rules, keeper, _ = done.stdout.split("\0")
    return rules, keeper


def order(names: Sequence[str], number: int) -> list[str]:
    """Return ``names`` as round ``number`` takes them: each is as often before as after each other."""
    start = number // 2 % len(names)
    turned = [*names[start:], *names[:start]]
    return turned[::-1] if number % 2 else turned


def measure(made: Plane, rulesets: Mapping[str, str], rounds: int) -> Found:
    """Return what was measured; the rulesets are loaded into the box of ``made``."""
    host, clients, second = made.boxes.host, made.boxes.clients, made.boxes.other
    assert second is not None
    clients.ip(f"route add {OTHER4} via {HOST4}")
    second.ip(f"route add {CLIENT4} via 203.0.113.1")
    host.sysctl("net.ipv4.ip_forward", "1")
    host.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1")  # or the table would grow with every turn
    ports = [want.rule.port for want in made.desired.instances()]
    found: Found = {}
    nft = NftContext()
    with ExitStack() as stack:
        ways = {
            "service": stack.enter_context(crossing(clients, host, f"{HOST4} {SERVICE}", *ports)),
            "other": stack.enter_context(crossing(clients, host, f"{HOST4} {OTHER}", OTHER)),
            "forwarded": stack.enter_context(crossing(clients, second, f"{OTHER4} {OTHER}", OTHER)),
        }
        first = 0
        for number in range(rounds):
            for name in order([*rulesets], number):
                nft.do(f"flush ruleset\n{rulesets[name]}")
                for way, one in ways.items():
                    if way == "service" and name in ("conntrack", "none"):
                        continue  # nothing would lead to the instances
                    for (what, kind), time in one.measure(first).items():
                        found.setdefault((way, what, kind), {}).setdefault(name, []).append(time)
                    first += WARM + CONNECTS
    return found


def each(new: str) -> dict[str, str]:
    """Return {name: ruleset} of this tree's rules with more of a kind."""
    found = {"old": new, "control": new}
    for name, rule in EACH.items():
        found[name] = new + f"insert rule inet portfleet admit {rule}\n" * COPIES
    for name, rule in CHAINS.items():
        hook = "type filter hook prerouting priority -150;"
        found[name] = f"{new}\ntable inet portfleet {{\n chain more {{\n {hook}\n {rule}\n }}\n}}\n"
    return found


def print_each(found: Found) -> dict[str, float]:
    """Print what one more costs; return it in nanoseconds by name."""
    results = {}
    print("what each costs a packet that passes it:")
    for name in (*EACH, *CHAINS, "control"):
        copies, what = (COPIES, "connect") if name in EACH else (1, "request")
        results[name] = compare(found["service", what, "p50"], name)["extra_ns"] / copies
        print(f"{results[name]:+6.0f} ns   {name}")
    return results


def compare(times: Mapping[str, list[float]], name: str) -> dict[str, Any]:
    """Return how ``name`` compares with the old rules."""
    base = times["old+keeper" if "+" in name else "old"]
    ratios = [one / old for one, old in zip(times[name], base, strict=True)]
    chance = random.Random(12)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(1_000))
    extra = [one - old for one, old in zip(times[name], base, strict=True)]
    return {
        "us": statistics.median(times[name]) / 1e3,
        "quartiles_us": [quartile / 1e3 for quartile in statistics.quantiles(times[name], n=4)[::2]],
        "ratio": statistics.median(ratios),
        "interval": [medians[25], medians[-26]],
        "extra_ns": statistics.median(extra),
    }


def line(key: Sequence[str], name: str, one: Mapping[str, Any]) -> str:
    """Return a line of the table."""
    low, high = one["interval"]
    spread = "{:.2f}-{:.2f}".format(*one["quartiles_us"])
    value = f"{one['us']:7.2f} us p50 " if key[2] == "p50" else f"{1e6 / one['us']:8,.0f} /s   "
    ratio = f"{one['ratio']:.4f} [{low:.4f} {high:.4f}] {one['extra_ns']:+6.0f} ns"
    return f"{key[0]:10}{key[1]:9}{name:11}{value}{spread:>13}   {ratio}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench dataplane/path", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="whose rules are the old ones (default: these again)")
    parser.add_argument("--each", action="store_true", help="measure instead what single rules and chains cost")
    parser.add_argument("--rounds", type=int, default=120)
    args = parser.parse_args()
    before = os.getloadavg()
    new, keeper = rendered(ROOT)
    old, old_keeper = rules_of(args.against) if args.against else (new, keeper)
    rulesets = {"new": new, "old": old, "control": old, "new+keeper": new + keeper, "old+keeper": old + old_keeper}
    rulesets |= {"conntrack": TRACKED, "none": ""}
    with tempfile.TemporaryDirectory() as folder, plane(Path(folder) / "rules.json", other=True) as made:
        made.load(ECHO)
        os.sched_setaffinity(0, {CLIENT_CPU})
        with network_of(made.boxes.host):
            found = measure(made, each(new) if args.each else rulesets, args.rounds)
    if args.each:
        print(save("dataplane-path-each", {"rounds": args.rounds, "ns": print_each(found)}))
        return 0
    results: dict[str, Any] = {"against": args.against, "rounds": args.rounds, "load_before": list(before)}
    failed = noisy = False
    for key, times in found.items():
        for name in times:
            one = compare(times, name)
            print(line(key, name, one))
            results.setdefault(key[0], {}).setdefault(key[1], {}).setdefault(key[2], {})[name] = one
            failed |= (key[0], name) == ("service", "new") and one["ratio"] > WORST
            noisy |= (key[0], name) == ("service", "control") and not 2 - WORST < one["ratio"] < WORST
    print(f"load average {before[0]:.1f} before, {os.getloadavg()[0]:.1f} after; {environment()['cpu']}")
    if args.against:
        print(save("dataplane-path", results))
    return 2 if noisy else int(failed)


if __name__ == "__main__":
    sys.exit(main())
