"""SIGKILL at every point: before and after every step of a plan and every write of a file; the next apply repairs.

The points are first traced, then each is killed at (most of them in the slow proofs): once on a fresh box (`up`), and
once on a running fleet whose config changes so that every kind of step happens (scaled, another command, a service
gone, a service new, other listens). After each kill the verb is given again, and then: nothing is left to do, and
every client is served.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import client4

pytestmark = pytest.mark.both_planes

TRACE = "/run/trace"

SERVICE = """
[service.{name}]
listen = [":{listen}"]
command = ["redis-server", "--port", "{{port}}", "--save", "", "--protected-mode", "no", "--timeout", "{timeout}"]
ports = "{low}-{high}"
instances = {instances}
slots = 256
[service.{name}.drain]
rate = 500
[service.{name}.probe]
send = "PING\\r\\n"
expect = "PONG"
"""


def service(name: str, *, instances: int, listen: int, low: int, timeout: int = 0) -> str:
    """Return a service of redis; a changed ``timeout`` is a changed command."""
    return SERVICE.format(name=name, instances=instances, listen=listen, low=low, high=low + 3, timeout=timeout)


ALONE = service("kept", instances=2, listen=6000, low=6100)
BEFORE = ALONE + service("gone", instances=1, listen=6001, low=6110)
AFTER = service("kept", instances=1, listen=6002, low=6100, timeout=300) + service(
    "new", instances=1, listen=6001, low=6120
)
#: By config: each service port with the instance ports behind it.
SERVED = {ALONE: {6000: {6100, 6101}}, BEFORE: {6000: {6100, 6101}, 6001: {6110}}, AFTER: {6002: {6100}, 6001: {6120}}}
#: Each of these tests takes every fourth point; three of the four are slow proofs.
QUARTERS = (pytest.param(0, marks=pytest.mark.long), *(pytest.param(q, marks=pytest.mark.full) for q in (1, 2, 3)))


@pytest.fixture
def fleet() -> Iterator[FleetBox]:
    with fleet_box() as made:
        yield made


def traced(fleet: FleetBox, verb: str) -> list[str]:
    """Run ``verb`` and give the names of the points it passes."""
    fleet.boxes.host.run("rm", "-f", TRACE)
    fleet.portfleet(verb, env={"PORTFLEET_FAULT": f"trace:{TRACE}"})
    return fleet.boxes.host.run("cat", TRACE).stdout.splitlines()


def killed_at(fleet: FleetBox, verb: str, point: int) -> bool:
    """Run ``verb`` with a kill at its ``point``; False where it ended by itself before that."""
    done = fleet.portfleet(verb, check=False, env={"PORTFLEET_FAULT": str(point)})
    assert done.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    return done.returncode != 0


def check_repaired(fleet: FleetBox, config: str, words: str) -> None:
    """Demand that nothing is left to do and that every client of every service of ``config`` is served."""
    waits = fleet.portfleet("plan", "--check", check=False)
    assert waits.returncode == 0, f"{words}: {waits.stdout}"
    for port, behind in SERVED[config].items():
        met = fleet.redis_ports([client4(number) for number in range(12)], port=port)
        assert set(met.values()) <= behind, words


def wipe(fleet: FleetBox) -> None:
    """Take the fleet down and forget all of it."""
    fleet.portfleet("down", "--yes")
    fleet.boxes.host.run("rm", "-rf", f"{HOME}/lib", f"{HOME}/run", f"{HOME}/log")


def stride(points: list[str]) -> int:
    """Return how far apart points are taken: every fourth, and of HAProxy's, which has a file per map, about twelve."""
    return max(4, len(points) // 12)


def each_point(points: list[str], quarter: int) -> Iterator[tuple[int, str]]:
    """Return every so many points from ``quarter`` on, with their numbers (from 1) and words for messages."""
    for number in range(1 + quarter * stride(points) // 4, len(points) + 1, stride(points)):
        yield number, f"killed at point {number} of {len(points)}, {points[number - 1]!r}"


@pytest.mark.parametrize("quarter", QUARTERS)
def test_up_killed_anywhere_is_repaired_by_the_next(fleet: FleetBox, quarter: int) -> None:
    fleet.write(ALONE)
    points = traced(fleet, "up")
    wipe(fleet)
    print(f"up on a fresh box has {len(points)} fault points")
    assert len({*points}) > 20

    killed = 0
    for number, words in each_point(points, quarter):
        killed += killed_at(fleet, "up", number)
        fleet.portfleet("up")
        check_repaired(fleet, ALONE, words)
        wipe(fleet)
    assert killed >= len(points) // stride(points) - 1


@pytest.mark.parametrize("quarter", QUARTERS)
def test_apply_killed_anywhere_is_repaired_by_the_next(fleet: FleetBox, quarter: int) -> None:
    """There and back: what is scaled down one way is scaled up the other."""
    fleet.write(BEFORE)
    fleet.portfleet("up")
    ways: dict[str, list[str]] = {}
    for config in (AFTER, BEFORE):
        fleet.write(config)
        ways[config] = traced(fleet, "apply")
        check_repaired(fleet, config, "not killed")
    print(f"apply there and back has {' + '.join(str(len(points)) for points in ways.values())} fault points")
    assert all(len(points) > 20 for points in ways.values())

    killed = 0
    longest = max(ways.values(), key=len)
    for number, _ in each_point(longest, quarter):
        for config, points in ways.items():
            words = f"killed at point {number} of {len(points)}"
            fleet.write(config)
            killed += killed_at(fleet, "apply", number)
            fleet.portfleet("apply")
            check_repaired(fleet, config, words)
    # How many points there are varies a little with the moment: what is still starting is waited for, or not.
    assert killed >= sum(map(len, ways.values())) // stride(longest) - 3
