"""What clients notice of a cutover with hand-off: the worst latency in it, less the worst of the second before.

2,000 established connections from another box ask 5,000 times a second in an open loop, while four instances of the
daemon hand over to four new ones. The load generator has a real-time priority: its own waiting for a processor is not
the service's. --before DIR measures the fleet of another checkout in turn with this one's. Prints the same for each
phase too: `submit` is the command until the watcher has begun, `return` its end. Writes
benchmarks/results/fleet-cutover.json, exits 1 if a reply was lost or wrong. Needs root; half a minute a round.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lib.build import ROOT, load_generator
from benchmarks.lib.measure import save
from benchmarks.lib.phases import phases_of

sys.path.insert(0, str(ROOT / "tests"))

from support.fleet_box import HOME, fleet_box
from support.sandbox import HOST4, client4

CONNECTIONS, RATE, SLICE_MS, SECONDS, CALM = 2_000, 5_000, 5, 12, 1.0
_CONFIG = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:echo"]
ports = "7100-7107"
instances = 4
min_ready = "1s"
"""
_WRONG = ("lost", "unanswered", "duplicated", "mixed_up", "corrupt", "closed", "reset")


def one_round(checkout: Path) -> dict[str, Any]:
    """Cut over a fresh fleet of a checkout under load; return what the clients met, in ms."""
    verb = [str(checkout / ".venv/bin/portfleet"), "--home", HOME]
    words = {"--mode": "open", "--host": HOST4, "--port": 7000, "--connections": CONNECTIONS, "--rate": RATE,
             "--seconds": SECONDS, "--timeline-ms": SLICE_MS, "--source": client4(1), "--sources": 200}  # fmt: skip
    flags = [str(part) for pair in words.items() for part in pair]
    with fleet_box() as box:
        box.write(_CONFIG)
        box.boxes.host.run(*verb, "up", timeout=120)
        load = box.boxes.clients.popen("chrt", "-f", "10", "taskset", "-c", "0", str(load_generator()), *flags)
        assert load.stdout is not None
        assert json.loads(load.stdout.readline())["event"] == "connected"
        time.sleep(2)
        busy, began = os.getloadavg()[0], time.monotonic()
        said = box.boxes.host.run(*verb, "cutover", "echo", "--force", timeout=60).stdout
        ended = time.monotonic()
        phases = phases_of(box.boxes.host.run("cat", f"{HOME}/lib/events.jsonl").stdout.splitlines())
        result = json.loads(load.stdout.readline())
        load.wait()
    slices = {result["monotonic"] + ms / 1e3: worst / 1e3 for ms, _, worst in result["timeline"]}
    assert ended < max(slices), "the cutover took longer than the load"
    times = {"submit": (began, phases[0].began)} | {phase.name: (phase.began, phase.ended) for phase in phases}
    times |= {"return": (phases[-1].ended, ended)}
    calm, during = _worst(slices, began - CALM, began), _worst(slices, began, ended)
    return {
        "worst_ms": during,
        "calm_ms": calm,
        "extra_ms": during - calm,
        "phases": {name: {"seconds": end - at, "extra_ms": _worst(slices, at, end) - calm}
                   for name, (at, end) in times.items()},
        "wrong": sum(result[key] for key in _WRONG),
        "load_average": busy,
        "said": said.strip(),
    }  # fmt: skip


def _worst(slices: Mapping[float, float], began: float, ended: float) -> float:
    """Return the worst latency of requests that were due in that time, or in a slice that reaches into it."""
    return max((worst for at, worst in slices.items() if began - SLICE_MS / 1e3 < at < ended), default=0.0)


def table(rounds: Mapping[str, list[dict[str, Any]]]) -> Iterable[str]:
    """Yield the lines of what was measured: medians, and the range over the rounds."""
    yield f"{'':<7} {'worst ms':>9} {'before it':>10} {'extra':>7} {'load':>6} {'wrong':>6}   extra of each round"
    for name, some in rounds.items():
        middle = [median(one[key] for one in some) for key in ("worst_ms", "calm_ms", "extra_ms", "load_average")]
        each = " ".join(f"{one['extra_ms']:.1f}" for one in some)
        wrong = sum(one["wrong"] for one in some)
        yield f"{name:<7} {middle[0]:>9.1f} {middle[1]:>10.1f} {middle[2]:>7.1f} {middle[3]:>6.2f} {wrong:>6}   {each}"
    yield f"{'':<7} {'phase':<9} {'seconds':>8} {'extra ms':>9}   range"
    for name, some in rounds.items():
        for phase in some[0]["phases"]:
            seen = [one["phases"][phase] for one in some if phase in one["phases"]]
            seconds, extra = (sorted(one[key] for one in seen) for key in ("seconds", "extra_ms"))
            line = f"{name:<7} {phase:<9} {median(seconds):>8.3f} {median(extra):>9.1f}"
            yield f"{line}   {extra[0]:.1f} to {extra[-1]:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--before", type=Path, help="another checkout, set up, to measure as well")
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for _ in range(options.rounds):
        for name, checkout in checkouts.items():
            rounds[name].append(one_round(checkout))
            last = rounds[name][-1]
            print(f"{name:<7} worst {last['worst_ms']:6.1f} ms, before it {last['calm_ms']:6.1f}", flush=True)
    print("\n".join(table(rounds)))
    save("fleet-cutover", {"connections": CONNECTIONS, "rate": RATE, "rounds": rounds})
    return int(any(one["wrong"] for some in rounds.values() for one in some))


if __name__ == "__main__":
    sys.exit(main())
