"""How fast a cutover moves 10,000, 50,000 and 150,000 established connections to the new release.

Ten instances hand over to ten; the connections come from ten load generators in another box and are idle until the
cutover is over, when each is asked once more. The rate is that of the whole phase `moving`, with all that it waits for.
--before DIR measures the fleet of another checkout in turn with this one's. Writes
benchmarks/results/fleet-handoff.json, exits 1 if a connection was lost or answered wrong. Needs root, 4 GB of memory
and 20,000 descriptors a process; half a minute a round of 150,000.
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

from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import HOST4, client4

INSTANCES, SOURCES, COUNTS = 10, 4_000, (10_000, 50_000, 150_000)
_CONFIG = f"""
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{{port}}", "--handler", "portfleet_daemon.handlers:echo"]
ports = "7100-{7100 + 2 * INSTANCES - 1}"
instances = {INSTANCES}
min_ready = "1s"
"""
_WRONG = ("lost", "unanswered", "duplicated", "mixed_up", "corrupt", "closed", "reset", "refused", "full")


def one_round(checkout: Path, connections: int) -> dict[str, Any]:
    """Cut over a fresh fleet of a checkout that has so many connections; return how long it took to move them."""
    verb = [str(checkout / ".venv/bin/portfleet"), "--home", HOME]
    with fleet_box() as box:
        box.write(_CONFIG)
        box.boxes.host.run(*verb, "up", timeout=120)
        loads = [_load(box, number, connections // INSTANCES) for number in range(INSTANCES)]
        for load in loads:
            assert json.loads(load.stdout.readline())["event"] == "connected"
        time.sleep(1)
        busy = os.getloadavg()[0]
        said = box.boxes.host.run(*verb, "cutover", "echo", "--force", timeout=120).stdout.strip()
        events = box.boxes.host.run("cat", f"{HOME}/lib/events.jsonl").stdout.splitlines()
        (moving,) = [phase for phase in phases_of(events) if phase.name == "moving"]
        for signal in ("USR1", "TERM"):
            box.boxes.clients.run("pkill", f"-{signal}", "-x", "load")
            time.sleep(2)
        results = [json.loads(load.stdout.readline()) for load in loads]
    asked_again = sum(one["replies"] for one in results) == 2 * connections
    return {
        "seconds": moving.seconds,
        "connections_per_second": connections / moving.seconds,
        "wrong": sum(one[key] for one in results for key in _WRONG) + (not asked_again),
        "load_average": busy,
        "said": said,
    }


def _load(box: FleetBox, number: int, connections: int) -> Any:
    """Start one of the load generators; every one has sources of its own."""
    words = {"--mode": "idle", "--host": HOST4, "--port": 7000, "--connections": connections,
             "--first-id": number * connections, "--source": client4(1 + number * (SOURCES // INSTANCES)),
             "--sources": SOURCES // INSTANCES, "--grace": 60}  # fmt: skip
    return box.boxes.clients.popen(str(load_generator()), *[str(part) for pair in words.items() for part in pair])


def table(counts: Mapping[int, Mapping[str, list[dict[str, Any]]]]) -> Iterable[str]:
    """Yield the lines of what was measured: medians, and the rates of all rounds."""
    yield f"{'':<7} {'connections':>11} {'moving s':>9} {'a second':>9} {'load':>6} {'wrong':>6}   each round"
    for connections, rounds in counts.items():
        for name, some in rounds.items():
            seconds, rate, busy = (
                median(one[key] for one in some) for key in ("seconds", "connections_per_second", "load_average")
            )
            each = " ".join(f"{one['connections_per_second']:,.0f}" for one in some)
            line = f"{name:<7} {connections:>11,} {seconds:>9.3f} {rate:>9,.0f} {busy:>6.2f}"
            yield f"{line} {sum(one['wrong'] for one in some):>6}   {each}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, action="append", help="only so many; may be repeated")
    parser.add_argument("--before", type=Path, help="another checkout, set up, to measure as well")
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    counts = options.connections or COUNTS
    found: dict[int, dict[str, list[dict[str, Any]]]] = {count: {name: [] for name in checkouts} for count in counts}
    for count in counts:
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                found[count][name].append(one_round(checkout, count))
                last = found[count][name][-1]
                print(f"{name:<7} {count:>7,} in {last['seconds']:6.3f} s; {last['said']}", flush=True)
    print("\n".join(table(found)))
    save("fleet-handoff", {"instances": INSTANCES, "counts": found})
    return int(any(one["wrong"] for rounds in found.values() for some in rounds.values() for one in some))


if __name__ == "__main__":
    sys.exit(main())
