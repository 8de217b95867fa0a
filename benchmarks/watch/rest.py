"""The watcher at rest, scraped each five seconds: its share of a core, and what its probes leave in conntrack's table.

A fleet of the least daemon there is (quiet.c) in a box, probed every second, once for each kind of probe: "ours" has a
control socket, "connect" and "send" have none. A share of a core grows with whatever else uses the machine, by cache
misses alone; so the bare system calls of the same probe, by a loop without anything around them, are timed in turn with
it, and the ratio of both is printed too. Prints a table, writes benchmarks/results/watch-rest.json, exits 1 where
"ours" takes over 3 % or a kind leaves more than one entry per instance. Needs root; four minutes a kind.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.lib.build import ROOT, compile_c
from benchmarks.lib.measure import save

sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.watch.seen import PORT, SCRAPE_EVERY, cpu, scrapes

from support.fleet_box import FleetBox, fleet_box
from support.watched import pid_of

SHARE, ENTRIES = 0.03, 1.0
#: Seconds between two looks at all rules, so that as many of them are measured as there are.
LOOKS = 150.0
KINDS = ("ours", "connect", "send")
_SERVICE = """
[service.s{number}]
listen = [":{listen}"]
command = ["{daemon}", "{{port}}", "{kind}"]
ports = "{low}-{high}"
instances = {instances}
min_ready = "off"
start_timeout = "5m"
"""
_SEND = 'probe = { send = "PING\\n", expect = "PONG" }\n'
#: Runs in the box: prints the seconds of processor time of one probe by its system calls alone.
_BARE = """
import os, socket, struct, subprocess, sys, time
daemon, kind, port, path, times = sys.argv[1], sys.argv[2], 9999, "/run/bare.sock", 500
process = subprocess.Popen([daemon, str(port), "ours"], env={"PORTFLEET_CONTROL": path})
kept = socket.socket(socket.AF_UNIX)
while kept.connect_ex(path):
    time.sleep(0.01)
reset = struct.pack("=ii", 1, 0)
def connected():
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    return connection
def ours():
    kept.send(b'{"command": "state"}\\n')
    kept.recv(4096)
def connect():
    connected().close()
def send():
    connection = connected()
    connection.send(b"PING\\n")
    connection.recv(4096)
    connection.close()
probe = {"ours": ours, "connect": connect, "send": send}[kind]
began = time.process_time()
for _ in range(times):
    probe()
print((time.process_time() - began) / times)
process.kill()
"""


def config(kind: str, instances: int, daemon: Path) -> str:
    """Return the fleet.toml of services of 16 instances."""
    text = f'[metrics]\nlisten = "127.0.0.1:{PORT}"\n'
    for number in range(instances // 16):
        low = 10_000 + 32 * number
        text += _SERVICE.format(
            number=number, listen=2000 + number, daemon=daemon, kind=kind, low=low, high=low + 31, instances=16
        )
        text += _SEND if kind == "send" else ""
    return text


def entries(box: FleetBox) -> int:
    """Return how many entries conntrack's table has."""
    return int(box.boxes.host.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count").stdout)


def measure(kind: str, instances: int, seconds: float) -> dict[str, float]:
    """Return what the watcher of such a fleet takes."""
    daemon = compile_c("quiet", "benchmarks/watch/quiet.c")
    with fleet_box() as box:
        box.write(config(kind, instances, daemon))
        box.boxes.host.run(*box.argv("up"), timeout=600)
        ready = sum(found["state"] == "ready" for found in box.status().values())
        assert ready == instances, ready
        time.sleep(25)  # what `up` left in conntrack's table, the first probe of each through its port, the last change
        pid, bare = pid_of(box, "portfleet-watch"), list[float]()
        used, began = cpu(box, pid), time.monotonic()
        while time.monotonic() < began + seconds:
            next_at = time.monotonic() + SCRAPE_EVERY
            scrapes(box, 1)
            bare.append(float(box.boxes.host.run(sys.executable, "-c", _BARE, str(daemon), kind).stdout))
            time.sleep(max(0.0, next_at - time.monotonic()))
        share = (cpu(box, pid) - used) / (time.monotonic() - began)
        time.sleep(12)  # until conntrack has forgotten the bare ones, which ended by a reset
        left = entries(box)
    return {
        "share": share, "per_probe_s": share / instances, "bare_probe_s": median(bare),
        "ratio": share / instances / median(bare), "entries_per_instance": left / instances,
        "load_average": os.getloadavg()[0],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench watch/rest", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="128 instances and 15 s, to see that it runs")
    parser.add_argument("--instances", type=int, default=1024, help="a multiple of 16")
    parser.add_argument("--only", choices=KINDS, action="append", help="not all kinds of probe")
    options = parser.parse_args()
    instances, seconds = (128, 15.0) if options.quick else (options.instances, LOOKS)
    found = {}
    for kind in options.only or KINDS:
        found[kind] = measure(kind, instances, seconds)
        print(kind, found[kind], file=sys.stderr)
    print(f"{'probe':<8} {'share of a core':>16} {'of bare calls':>14} {'conntrack/instance':>19} {'load':>6}")
    for kind, one in found.items():
        print(
            f"{kind:<8} {one['share']:>15.1%} {one['ratio']:>13.2f}x {one['entries_per_instance']:>19.2f} "
            f"{one['load_average']:>6.1f}"
        )
    if not options.quick:
        save("watch-rest", {"instances": instances, "seconds": seconds, "kinds": found})
    met = [one["entries_per_instance"] <= ENTRIES and (kind != "ours" or one["share"] <= SHARE)
           for kind, one in found.items()]  # fmt: skip
    print(json.dumps(found))
    return 0 if options.quick or all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
