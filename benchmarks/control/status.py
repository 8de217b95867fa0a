"""What processor time `status` and `drain` of a service of 64 instances take, beside another checkout's `status`.

A fleet of portfleet-daemon in a box, for each checkout one that it started itself, as journals and rules differ between
versions. In each round every verb runs once, in turn, in an interpreter of its own whose user and system time is taken;
modules are compiled once, as after an installation. Ratios and differences are taken within a round, and their median
is what counts: a busy machine slows down all of a round. Exits 1 if `status` takes longer than before, or `drain` takes
20 ms more than `status`. Prints a table, writes benchmarks/results/control-status.json. Needs root; two minutes.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lib.build import ROOT
from benchmarks.lib.measure import save

sys.path.insert(0, str(ROOT / "tests"))

from support.fleet_box import HOME, FleetBox, fleet_box

_CONFIG = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{{port}}", "--handler", "portfleet_daemon.handlers:whoami"]
ports = "7100-{high}"
instances = {instances}
start_timeout = "2m"
"""
_COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": "/run/compiled"}
#: Runs a command; prints its user and system time in seconds.
_TIMED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
assert done.returncode == 0, done.stderr
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""
#: Milliseconds of processor time that `drain` may take more than `status`.
_MORE = 20


@dataclass(frozen=True)
class Subject:
    """A checkout and the fleet that it started."""

    checkout: Path
    box: FleetBox

    def argv(self, *words: str) -> tuple[str, ...]:
        """Return the command line of a verb of this checkout."""
        return str(self.checkout / ".venv/bin/portfleet"), "--home", HOME, *words

    def run(self, *words: str) -> None:
        """Run a verb that is not measured."""
        self.box.boxes.host.run(*self.argv(*words), env=_COMPILED, timeout=300)

    def timed(self, *words: str) -> float:
        """Run a verb and return its user and system time in milliseconds."""
        said = self.box.boxes.host.run(sys.executable, "-c", _TIMED, *self.argv(*words), env=_COMPILED, timeout=60)
        return 1000 * float(said.stdout)


def measured(subjects: dict[str, Subject], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each verb, round by round; the first round, which compiles, is not counted.

    Drains come last, beside a `status` each: their history is in the journal then, and every look reads it.
    """
    found: dict[str, list[float]] = {f"status {name}": [] for name in subjects}
    for number in range(rounds + 1):
        # Each is the first of a round as often as the other.
        for name, subject in list(subjects.items())[:: 1 if number % 2 else -1]:
            found[f"status {name}"].append(subject.timed("status"))
    this, beside = subjects["this"], ("status beside drain", "drain this")
    found |= {what: [] for what in beside}
    for _ in range(rounds + 1):
        for what, words in zip(beside, (("status",), ("drain", "echo/echo-blue-1")), strict=True):
            found[what].append(this.timed(*words))
        this.run("undrain", "echo/echo-blue-1")
    return {what: times[1:] for what, times in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--before", type=Path, help="another checkout, set up, to measure as well")
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    config = _CONFIG.format(instances=options.instances, high=7099 + 2 * options.instances)
    with ExitStack() as stack:
        subjects = {name: Subject(checkout, stack.enter_context(fleet_box())) for name, checkout in checkouts.items()}
        for subject in subjects.values():
            subject.box.write(config)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda subject: subject.run("up"), subjects.values()))
        times = measured(subjects, options.rounds)
    return 0 if report(times, {"instances": options.instances, "rounds": options.rounds}) else 1


def report(times: dict[str, list[float]], size: dict[str, Any]) -> bool:
    """Print and save what was measured; return whether both targets are met."""
    found: dict[str, Any] = {what: round(median(all_), 1) for what, all_ in times.items()}
    print(f"{'':<20} {'CPU ms':>7} {'least':>7}")
    for what, all_ in times.items():
        print(f"{what:<20} {median(all_):>7.1f} {min(all_):>7.1f}")
    more = median(
        drain - status for drain, status in zip(times["drain this"], times["status beside drain"], strict=True)
    )
    print(f"drain takes {more:+.1f} ms of processor time beside status (at most {_MORE:+} is the target)")
    met = more <= _MORE
    found["drain_more_ms"] = round(more, 1)
    if "status before" in times:
        ratios = sorted(
            this / before for this, before in zip(times["status this"], times["status before"], strict=True)
        )
        ratio = median(ratios)
        print(f"status takes {ratio:.2f} of what it took before (rounds: {ratios[0]:.2f} to {ratios[-1]:.2f})")
        met = met and ratio <= 1
        found["status_ratio"] = {"median": round(ratio, 3), "least": round(ratios[0], 3), "most": round(ratios[-1], 3)}
    save("control-status", {**size, "cpu_ms": found})
    return met


if __name__ == "__main__":
    sys.exit(main())
