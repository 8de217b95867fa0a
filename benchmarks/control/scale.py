"""What the control plane of 64 services of 16 instances costs: idle verbs, growth, the watcher at rest.

A fleet of small daemons in C (`instance.c`) in a box: one with many threads would take all of a machine's pids. The CPU
of a verb is that of its process alone; supervisord's beside it, and the wall clock, tell what it has others do. The
watcher is stopped, and run for a while by hand, its CPU taken after its first seconds. --before DIR also measures
verbs and watcher of another checkout, in turn with these, on the same fleet.

--only growth: half of the instances are brought up, an `apply` adds the other half, verbs are measured as above, and
`down` ends all; `status -q` runs every second until all are there. A client of each service is connected from before
that `apply` until after another one, which has nothing to do; those that lost their connection are counted.
--grow DIR has the verbs of another checkout do that.

Prints a table, writes benchmarks/results/control-scale.json, or control-growth.json. Needs root; a few minutes.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lib.build import ROOT, compile_c
from benchmarks.lib.measure import save

sys.path.insert(0, str(ROOT / "tests"))

from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import HOST4

VERBS = ("status", "plan")  # which change nothing, so that another version's may be run
FIRST_LISTEN, FIRST_PORT = 2000, 10_000
_SERVICE = """
[service.s{number}]
listen = [":{listen}"]
command = ["{daemon}", "{{port}}"]
ports = "{low}-{high}"
instances = {instances}
start_timeout = "5m"
"""
_COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": "/run/compiled"}
_TIMED = """
import json, os, resource, subprocess, sys, time
def ticks(pid): return sum(map(int, open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[11:13]))
supervisord = int(open(sys.argv[1]).read())
before, began = ticks(supervisord), time.monotonic()
done = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
wall, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
assert done.returncode in (0, 7, 8), done.stderr
theirs = (ticks(supervisord) - before) / os.sysconf("SC_CLK_TCK")
print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "wall": wall, "supervisord": theirs}))
"""
_AT_REST = """
import json, os, subprocess, sys, time
watching = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
def used(): return sum(map(int, open(f"/proc/{watching.pid}/stat").read().rpartition(")")[2].split()[11:13]))
time.sleep(5)
before, began = used(), time.monotonic()
time.sleep(float(sys.argv[1]))
share = (used() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
entries = int(open("/proc/sys/net/netfilter/nf_conntrack_count").read())
watching.terminate()
watching.wait()
print(json.dumps({"share": share, "entries": entries}))
"""


_STATUS = """
import json, subprocess, sys, time
slowest, codes = 0.0, []
print("ready", flush=True)
import threading
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
while not stop.is_set():
    began = time.monotonic()
    codes.append(subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode)
    slowest = max(slowest, time.monotonic() - began)
    stop.wait(1)
print(json.dumps({"runs": len(codes), "slowest": slowest, "failed": sum(code not in (0, 7, 8, 9) for code in codes)}))
"""
_CLIENTS = """
import socket, sys
held = [socket.create_connection((sys.argv[1], int(sys.argv[2]) + n), timeout=20) for n in range(int(sys.argv[3]))]
def lost():
    found = 0
    for one in held:
        try:
            one.sendall(b"x" * 64)
            found += len(one.recv(64, socket.MSG_WAITALL)) != 64
        except OSError:
            found += 1
    return found
assert not lost()
print("ready", flush=True)
sys.stdin.readline()
print(lost())
"""


def config(services: int, instances: int, daemon: Path, *, most: int) -> str:
    """Return the fleet.toml of so many services, whose ports are those of ``most`` instances each."""
    lows = [FIRST_PORT + 2 * most * number for number in range(services)]
    return "".join(
        _SERVICE.format(
            number=number, listen=FIRST_LISTEN + number, daemon=daemon, low=low, high=low + 2 * most - 1,
            instances=instances,
        )
        for number, low in enumerate(lows)
    )  # fmt: skip


def measured(box: FleetBox, script: str, *words: str, seconds: float = 120) -> dict[str, float]:
    """Run a script in the host's box and return what it printed."""
    done = box.boxes.host.run(sys.executable, "-c", script, *words, env=_COMPILED, timeout=seconds)
    return dict(json.loads(done.stdout))


def program(checkout: Path, *words: str) -> list[str]:
    """Return the command line of a verb of a checkout."""
    return [str(checkout / ".venv/bin/portfleet"), "--home", HOME, *words]


def verbs(box: FleetBox, checkouts: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Run each verb of each checkout in turn; return the medians by verb and checkout, in seconds."""
    pidfile = f"{HOME}/run/supervisord.pid"
    found: dict[str, dict[str, list[dict[str, float]]]] = {verb: {name: [] for name in checkouts} for verb in VERBS}
    for _ in range(rounds):
        for verb in VERBS:
            for name, checkout in checkouts.items():
                found[verb][name].append(measured(box, _TIMED, pidfile, *program(checkout, verb)))
    return {
        verb: {name: {key: round(median(run[key] for run in runs), 4) for key in runs[0]} for name, runs in by.items()}
        for verb, by in found.items()
    }


def at_rest(box: FleetBox, checkouts: dict[str, Path], rounds: int, seconds: float) -> dict[str, Any]:
    """Run each checkout's watcher in turn; return the share of a core and the entries in conntrack's table."""
    control = [str(ROOT / ".venv/bin/supervisorctl"), "-c", f"{HOME}/lib/supervisord.conf"]
    box.boxes.host.run(*control, "stop", "portfleet-watch")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(rounds):
        for name, checkout in checkouts.items():
            box.boxes.host.run("conntrack", "-F", check=False)
            words = [str(seconds), *program(checkout, "watch")]
            found[name].append(measured(box, _AT_REST, *words, seconds=seconds + 60))
    box.boxes.host.run(*control, "start", "portfleet-watch")
    return {name: {key: round(median(run[key] for run in runs), 4) for key in runs[0]} for name, runs in found.items()}


def growth(
    checkout: Path, services: int, instances: int, daemon: Path, *, checkouts: dict[str, Path], rounds: int
) -> dict[str, Any]:
    """Bring up half of the instances, then all, and take them down; return seconds, and what clients and others saw."""
    with fleet_box() as box:
        found: dict[str, Any] = {}

        def timed(what: str, *words: str) -> None:
            began = time.monotonic()
            done = box.boxes.host.run(*program(checkout, *words), env=_COMPILED, timeout=170, check=False)
            found[what] = {"seconds": round(time.monotonic() - began, 1), "code": done.returncode}
            print(f"{checkout.name} {what}: {found[what]}", flush=True)
            if done.returncode:
                print(done.stdout[-500:], done.stderr[-500:], flush=True)

        box.write(config(services, instances // 2, daemon, most=instances))
        timed("up of half", "up")
        clients = box.boxes.clients.popen(
            sys.executable, "-c", _CLIENTS, HOST4, str(FIRST_LISTEN), str(services)
        )  # fmt: skip
        looking = box.boxes.host.popen(sys.executable, "-c", _STATUS, *program(checkout, "status", "-q"), env=_COMPILED)
        assert clients.stdout and clients.stdout.readline() == "ready\n", clients.communicate("")
        box.write(config(services, instances, daemon, most=instances))
        timed("apply of the other half", "apply", "--yes")
        timed("apply without a change", "apply")
        found["lost"] = int(clients.communicate("\n", timeout=30)[0])
        told = looking.communicate("\n", timeout=60)[0].splitlines()[-1]
        found["status"] = {key: round(value, 2) for key, value in json.loads(told).items()}
        found["verbs"] = verbs(box, checkouts, rounds)
        timed("down", "down", "--yes")
        print(f"{checkout.name}: {found['lost']} of {services} clients lost; status -q: {found['status']}", flush=True)
        return found


def show(looks: dict[str, Any]) -> None:
    """Print what verbs cost."""
    print(f"{'':<18} {'CPU s':>7} {'supervisord s':>14} {'wall s':>7}")
    for verb, by in looks.items():
        for name, one in by.items():
            print(f"{verb + ' ' + name:<18} {one['cpu']:>7.3f} {one['supervisord']:>14.3f} {one['wall']:>7.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=64)
    parser.add_argument("--instances", type=int, default=16, help="per service")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="that a watcher is measured for")
    parser.add_argument("--before", type=Path, help="another checkout, set up, to measure as well")
    parser.add_argument("--only", choices=("rest", "growth"), default="rest")
    parser.add_argument("--grow", type=Path, default=ROOT, help="the checkout whose verbs bring up and take down")
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    daemon = compile_c("instance", "benchmarks/control/instance.c")
    size = {"services": options.services, "instances": options.instances}
    if options.only == "growth":
        grown = growth(
            options.grow.resolve(), options.services, options.instances, daemon,
            checkouts=checkouts, rounds=options.rounds,
        )  # fmt: skip
        show(grown["verbs"])
        save("control-growth", {**size, "rounds": options.rounds, **grown})
        return int(grown["lost"] or grown["status"]["failed"])
    with fleet_box() as box:
        box.write(config(options.services, options.instances, daemon, most=options.instances))
        began = time.monotonic()
        box.boxes.host.run(*program(ROOT, "up"), env=_COMPILED, timeout=600)
        up = round(time.monotonic() - began, 1)
        print(f"up: {up} s", flush=True)
        looks = verbs(box, checkouts, options.rounds)
        rest = at_rest(box, checkouts, max(1, options.rounds // 2), options.seconds)
    show(looks)
    for name, one in rest.items():
        print(
            f"{'watcher ' + name:<18} {one['share']:>7.1%} of a core, {one['entries']:,} entries in conntrack's table"
        )
    save("control-scale", {**size, "rounds": options.rounds, "up_seconds": up, "verbs": looks, "watcher": rest})
    return 0


if __name__ == "__main__":
    sys.exit(main())
