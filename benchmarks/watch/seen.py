"""A fleet of 1,024 instances that is scraped and looked at: what that costs, and that an ejection does not notice.

1,020 redis-servers and four of our own daemon in a sandbox, each probed every second. Measured are a scrape, the
watcher's share of a core without a scrape and with one each five seconds, the page's first contentful paint in headless
Chromium, what the page's stream sends a second, and the time from the kill of one of the four until new connections go
elsewhere, by turns with no client of the metrics and with 20 streams and 20 scrapes each five seconds. Then ten
instances of our own daemon with 150,000 connections are scraped.

Prints a table, writes benchmarks/results/watch-seen.json, exits 1 where a goal is missed. Needs root, redis-server and
chromium; about ten minutes.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lib.measure import Load, save
from benchmarks.watch.crash import KILL, LIFE, spread

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from portfleet.metrics.prompt import STREAM
from portfleet.supervise.supervisor import Supervisor
from support.chromium import chromium, paint
from support.fleet_box import HOME, REDIS, FleetBox, fleet_box
from support.netns import network_of
from support.sandbox import HOST4, client4, wait_for
from support.watched import NAMED, load, pid_of, watch_status

INSTANCES, VIEWERS, SCRAPE_EVERY, CONNECTIONS = 1024, 20, 5.0, 150_000
SCRAPE_S, WATCHER, PAINT_S, STREAM_BYTES, SAME = 0.5, 0.03, 1.0, 20_000, 1.1
PORT = 9797
#: Load generators that hold the connections: 20,000 descriptors a process are as many as some machines allow.
_LOADS = 10
_TEN = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:echo"]
ports = "7100-7119"
instances = 10
slots = 4096
"""
_METRICS = f'[metrics]\nlisten = "127.0.0.1:{PORT}"\n'
#: Runs in the box: prints the seconds of scrapes one after the other, and how long an answer is.
_SCRAPES = """
import json, sys, time, urllib.request
url, number = sys.argv[1], int(sys.argv[2])
times = []
for _ in range(number):
    began = time.perf_counter()
    text = urllib.request.urlopen(url, timeout=30).read()
    times.append(time.perf_counter() - began)
print(json.dumps([times, len(text)]))
"""
#: Runs in the box: reads the page's stream; prints the bytes of its first two seconds and of those that followed.
_STREAM = """
import json, socket, sys, time
port, path, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
connection = socket.create_connection(("127.0.0.1", port))
connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\n\\r\\n".encode())
connection.settimeout(0.2)
sizes, end = [0, 0], time.monotonic() + 2 + seconds
while (now := time.monotonic()) < end:
    try:
        data = connection.recv(1 << 20)
    except TimeoutError:
        continue
    assert data, "the stream has ended"
    sizes[now > end - seconds] += len(data)
print(json.dumps(sizes))
"""
#: Runs in the box until its input ends: streams that are read, and a scrape of each viewer every five seconds.
_VIEWERS = """
import socket, sys, threading, time, urllib.request
port, path, number, every = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
def view():
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\n\\r\\n".encode())
    while connection.recv(1 << 16):
        pass
def scrape():
    while True:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read()
        time.sleep(every)
threads = [threading.Thread(target=what) for what in (view, scrape) for _ in range(number)]
for thread in threads:
    thread.daemon = True
    thread.start()
    time.sleep(every / number)
print("all look", flush=True)
sys.stdin.read()
"""


def fleet(instances: int) -> str:
    """Return the config: four of our own, the others of redis."""
    others = instances - 4
    kv = REDIS.replace("instances = 4", f'instances = {others}\nstart_timeout = "10m"')
    return NAMED + kv.replace("6100-6107", f"10000-{10_000 + 2 * others - 1}") + _METRICS


def scrapes(box: FleetBox, number: int) -> tuple[list[float], int]:
    """Return the seconds of ``number`` scrapes, and the bytes of one."""
    url = f"http://127.0.0.1:{PORT}/metrics"
    times, size = json.loads(box.boxes.host.run(sys.executable, "-c", _SCRAPES, url, str(number), timeout=300).stdout)
    return times, size


def cpu(box: FleetBox, pid: int) -> float:
    """Return the seconds of processor time that a process of the box has used."""
    fields = box.boxes.host.run("cat", f"/proc/{pid}/stat").stdout.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(box: FleetBox, seconds: float, *, scraped: bool) -> float:
    """Return the watcher's share of a core over some seconds, with a scrape each five seconds or without one."""
    pid, began = pid_of(box, "portfleet-watch"), time.monotonic()
    before = cpu(box, pid)
    while (left := began + seconds - time.monotonic()) > 0:
        if scraped:
            scrapes(box, 1)
        time.sleep(min(SCRAPE_EVERY, max(0.0, left)))
    return (cpu(box, pid) - before) / (time.monotonic() - began)


def paints(box: FleetBox, number: int) -> list[float]:
    """Return the seconds until the page's first contentful paint, ``number`` times after one that fills caches."""
    with chromium(box.boxes.host) as browser:
        return [paint(browser, f"http://127.0.0.1:{PORT}/") for _ in range(number + 1)][1:]


@contextmanager
def viewed(box: FleetBox) -> Iterator[None]:
    """Have 20 clients follow the page's stream and scrape."""
    argv = (sys.executable, "-c", _VIEWERS, str(PORT), STREAM, str(VIEWERS), str(SCRAPE_EVERY))
    process = box.boxes.host.popen(*argv)
    try:
        assert process.stdout is not None and "all look" in process.stdout.readline()
        yield
    finally:
        process.communicate()


def kill(box: FleetBox, number: int) -> float:
    """Kill one of the four when all serve; return the seconds until new connections go elsewhere."""
    began = time.monotonic()
    name, supervisor = f"echo-blue-{number % 4 + 1}", Supervisor(box.boxes.host.path(f"{HOME}/run/supervisor.sock"))
    wait_for("all serve", lambda: not (found := watch_status(box))["out"] and not found["pending"], seconds=120)
    wait_for("it is RUNNING", lambda: supervisor.programs()[name].state == "RUNNING", seconds=60)
    # The four are killed in turn: one of them lives for four times what this takes.
    time.sleep(max(0.0, began + LIFE / 3 - time.monotonic()))
    pid, supervisord = str(supervisor.programs()[name].pid), str(pid_of(box, "supervisord"))
    return float(json.loads(box.boxes.host.run(sys.executable, "-c", KILL, pid, supervisord).stdout)[0])


def large(*, quick: bool) -> dict[str, Any]:
    """Return what is measured of the fleet of 1,024."""
    turns, kills, seconds = (1, 3, 20.0) if quick else (4, 12, 60.0)
    instances = 64 if quick else INSTANCES
    with fleet_box() as box:
        box.write(fleet(instances))
        print(f"starting {instances:,} instances ...", file=sys.stderr)
        box.boxes.host.run(*box.argv("up"), timeout=900)
        serving = [found for found in box.status().values() if found["state"] == "ready"]
        assert len(serving) == instances, len(serving)
        wait_for("metrics answer", lambda: scrapes(box, 1), seconds=60)
        times, size = scrapes(box, 5 if quick else 20)
        alone, scraped = share(box, seconds, scraped=False), share(box, seconds, scraped=True)
        stream = (sys.executable, "-c", _STREAM, str(PORT), STREAM, str(seconds))
        first, after = json.loads(box.boxes.host.run(*stream, timeout=300).stdout)
        painted = paints(box, 3 if quick else 10)
        print(f"scrape {times}, watcher {alone} {scraped}, paint {painted}, stream {after}", file=sys.stderr)
        ejections: dict[bool, list[float]] = {False: [], True: []}
        with load(box, held=20, connects=50, interval=0.2) as clients:
            for turn in range(turns):
                ejections[False] += [kill(box, turn * kills + number) for number in range(kills)]
                with viewed(box):
                    ejections[True] += [kill(box, turn * kills + number) for number in range(kills)]
                print(f"turn {turn + 1} of {turns} of kills done", file=sys.stderr)
    return {
        "scrape_s": spread(times), "scrape_bytes": size, "watcher_share": alone, "watcher_share_scraped": scraped,
        "stream_first_bytes": first, "stream_bytes_per_s": after / seconds, "first_paint_s": spread(painted),
        "ejection_s": spread(ejections[False]), "ejection_viewed_s": spread(ejections[True]),
        "instances": instances, "refused": clients.report["connects"]["refused"],
    }  # fmt: skip


def crowded(*, quick: bool) -> dict[str, Any]:
    """Return the scrapes of ten instances that have 150,000 connections."""
    number = 2000 if quick else CONNECTIONS
    with fleet_box() as box:
        box.write(_TEN + _METRICS)
        box.boxes.host.run(*box.argv("up"), timeout=150)
        with ExitStack() as stack:
            for part in range(_LOADS):
                with network_of(box.boxes.clients):
                    held = Load.start(
                        7000, host=HOST4, source=client4(250 * part), sources=250, mode="idle",
                        connections=number // _LOADS, seconds=900,
                    )  # fmt: skip
                stack.enter_context(held)
            there = sum(found["connections"] or 0 for found in box.status().values())
            assert there >= number, there
            times, size = scrapes(box, 5 if quick else 20)
    return {"connections": there, "scrape_s": spread(times), "scrape_bytes": size}


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench watch/seen", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of each and 2,000 connections, to see that it runs")
    quick = parser.parse_args().quick
    if absent := [name for name in ("redis-server", "chromium") if not shutil.which(name)]:
        raise SystemExit(f"not found: {', '.join(absent)}\nhint: script/setup --full")
    found = {"viewers": VIEWERS} | large(quick=quick)
    found["crowded"] = crowded(quick=quick)
    rows = [
        (f"scrape of {found['instances']:,} instances, median, s", found["scrape_s"]["p50"], SCRAPE_S),
        (
            "watcher, share of a core by a scrape each 5 s",
            found["watcher_share_scraped"] - found["watcher_share"],
            WATCHER,
        ),
        ("page, first contentful paint, median, s", found["first_paint_s"]["p50"], PAINT_S),
        ("page's stream, bytes a second", found["stream_bytes_per_s"], STREAM_BYTES),
        ("ejection p99, viewed / not", found["ejection_viewed_s"]["p99"] / found["ejection_s"]["p99"], SAME),
        ("connects refused", found["refused"], 0),
        (
            f"scrape with {found['crowded']['connections']:,} connections, s",
            found["crowded"]["scrape_s"]["p50"],
            SCRAPE_S,
        ),
    ]
    print(json.dumps(found))
    for what, measured, goal in rows:
        print(f"{'met   ' if measured <= goal else 'MISSED'} {what}: {measured:.3f} <= {goal}")
    if not quick:
        print(save("watch-seen", found))
    return 0 if quick or all(measured <= goal for _, measured, goal in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
