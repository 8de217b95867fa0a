"""What tests of operations share: fleets whose answers tell the release, the history, kills at a phase, a reboot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import wait_for

_TESTS = Path(__file__).parents[1]
_FAULT = f"{HOME}/fault"

#: Two of our own daemon; answers tell instance and release and repeat the request (support.told).
TOLD = f"""
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{{port}}", "--handler", "support.told:told"]
environment = {{ PYTHONPATH = "{_TESTS}:{_TESTS.parent / "daemon"}" }}
release = "v1"
ports = "7100-7119"
instances = 2
start_timeout = "8s"
min_ready = "off"
[service.echo.drain]
rate = 5
[service.echo.probe]
send = "PING\\n"
expect = "PING"
"""

#: Arguments of a canary that is not judged by its p99, which on a busy machine is any number of times the live one.
ANY_P99 = ("--max-p99", "1000000x")


@contextmanager
def operated(config: str = TOLD) -> Iterator[FleetBox]:
    """Return a fleet that is up, whose watcher can be told to die at a point (``die_at``)."""
    with fleet_box() as made:
        made.write(config)
        made.portfleet("up", env={"PORTFLEET_FAULT_ONCE": _FAULT})
        yield made


def die_at(box: FleetBox, point: str) -> None:
    """Have the watcher kill itself when it passes ``point`` (portfleet/faults.py) the next time."""
    box.boxes.host.run("sh", "-c", f"cat > {_FAULT}", text=point)


def died(box: FleetBox) -> bool:
    """Return whether the last ``die_at`` has happened."""
    return box.boxes.host.run("test", "-e", _FAULT, check=False).returncode == 1


def history(box: FleetBox) -> list[dict[str, Any]]:
    """Return the operations that have ended, oldest first."""
    done = json.loads(box.portfleet("history", "--json").stdout)["history"]
    return [entry for entry in done if entry["verb"] not in ("apply", "up", "down")]


def follow(box: FleetBox) -> str:
    """Follow the operation that was begun last to its end, and return what is printed."""
    told = json.loads(box.portfleet("history", "--json").stdout)
    number = [*history(box), *told["running"]][-1]["number"]
    return box.portfleet("history", "--follow", str(number)).stdout


def phase(box: FleetBox) -> str:
    """Return the phase of the operation that runs; "" where none does."""
    running = json.loads(box.portfleet("history", "--json").stdout)["running"]
    return str(running[0]["phase"]) if running else ""


def cancelled(box: FleetBox, words: tuple[str, ...], while_in: str) -> str:
    """Begin a verb, cancel it when it is in the phase ``while_in``, and give what came of it."""
    box.portfleet(*words, "--no-wait")
    wait_for(f"{words} is in {while_in}", lambda: phase(box).startswith(while_in))
    return box.portfleet("cancel", "echo").stdout


def in_background(box: FleetBox, *words: str) -> subprocess.Popen[str]:
    """Start a verb and give its process; who starts it waits for it."""
    return box.boxes.host.popen(*box.argv(*words))


def reboot(box: FleetBox) -> None:
    """End every process of the box, its rules and what is in run/, then start the fleet as at boot."""

    def gone() -> bool:
        """Kill what is there; again and again, as one may have been started while the others were listed."""
        pids = [str(pid) for pid in box.processes() if pid != 1]
        box.boxes.host.run("sh", "-c", f"kill -KILL {' '.join(pids)} 2>/dev/null", check=False)
        return not pids

    wait_for("all are gone", gone)
    box.boxes.host.run("sh", "-c", f"nft flush ruleset; conntrack -F 2>/dev/null; rm -rf {HOME}/run")
    done = box.portfleet("up", env={"PORTFLEET_FAULT_ONCE": _FAULT}, check=False)
    assert done.returncode in (0, 5), done  # 5: the operation goes on by itself and has the service already


def slots(box: FleetBox) -> dict[str, int]:
    """Return the slots of each instance that has any."""
    return {name: found["slots"] for name, found in box.status().items() if found["slots"]}


def sockets(box: FleetBox) -> dict[str, int]:
    """Return how many established TCP connections each instance's process has open, by its descriptors."""
    script = (
        "import os,sys\n"
        "inodes={line.split()[9] for file in ('tcp','tcp6') for line in open(f'/proc/net/{file}').readlines()[1:] "
        "if line.split()[3] in ('01','08')}\n"
        "for pid in sys.argv[1:]:\n"
        " found=0\n"
        " for fd in os.listdir(f'/proc/{pid}/fd'):\n"
        "  try: link=os.readlink(f'/proc/{pid}/fd/{fd}')\n"
        "  except OSError: continue\n"
        "  found+=link.startswith('socket:[') and link[8:-1] in inodes\n"
        " print(pid,found)\n"
    )
    pids = {str(found["pid"]): name for name, found in box.status().items() if found["pid"]}
    said = box.boxes.host.run(sys.executable, "-c", script, *pids).stdout
    return {pids[pid]: int(count) for pid, count in (line.split() for line in said.splitlines())}


def counts_its_sockets(box: FleetBox) -> bool:
    """Return whether each instance counts its sockets, but for those of a client that connects between two looks."""
    found, said = sockets(box), {name: of["connections"] for name, of in box.status().items() if of["pid"]}
    return found.keys() == said.keys() and all(abs(found[name] - said[name]) <= 3 for name in found)


def last_releases(report: dict[str, Any]) -> Counter[str]:
    """Return how many held connections had their last answer from each release."""
    return Counter(held["seen"][-1].partition("/")[2] for held in report["held"])
