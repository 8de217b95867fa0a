"""Two homes with the same config, each in its own box: after export and import they point alike."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fleet_box import ECHO, PORTFLEET, FleetBox, fleet_box
from support.sandbox import wait_for

CACHE = ECHO.replace("echo", "cache").replace("7000", "7050").replace("7100-7107", "7200-7207")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[FleetBox, FleetBox]]:
    with fleet_box(ECHO + CACHE) as one, fleet_box(CACHE + ECHO) as other:
        yield one, other


def checksums(fleet: FleetBox) -> dict[str, str]:
    return {one["name"]: one["checksum"] for one in json.loads(fleet.look("--json").stdout)["services"]}


def table(fleet: FleetBox) -> dict[str, object]:
    """Return what export says of the slots as the kernel has them, and of marks and pins."""
    found = json.loads(fleet.portfleet("export").stdout)
    services = found["journal"]["services"]
    return {
        name: (found["slots"][name], one["marks"], one["pins"], one["asked"].keys()) for name, one in services.items()
    }


@pytest.mark.long
def test_two_homes_point_alike_after_an_import(pair: tuple[FleetBox, FleetBox]) -> None:
    one, other = pair
    assert checksums(one) == checksums(other) and table(one) == table(other), "new ones do, whatever their files' order"
    one.portfleet("scale", "echo", "2")
    one.portfleet("scale", "echo", "4")
    one.portfleet("pin", "echo", "198.18.0.7", "2")
    one.portfleet("drain", "cache/3", "--deadline", "0")
    assert checksums(one) != checksums(other)

    text = one.portfleet("export").stdout
    said = other.boxes.host.run(*other.argv("import", "-"), text=text).stdout

    assert "The rules are as there" in said
    assert checksums(one) == checksums(other) and table(one) == table(other)
    pinned = ["198.18.0.7", "198.18.0.8"]
    assert other.explain("echo", pinned) == one.explain("echo", pinned) == other.who(pinned)
    assert other.who(pinned)[pinned[0]] == "echo-blue-2"
    assert "already as there" in other.boxes.host.run(*other.argv("import", "-"), text=text).stdout
    other.settled()


def test_the_watcher_takes_an_import_in_within_half_a_second(pair: tuple[FleetBox, FleetBox]) -> None:
    one, other = pair
    one.portfleet("pin", "echo", "198.18.0.8", "3")
    other.boxes.host.run("sh", "-c", "cat > /run/theirs.json", text=one.portfleet("export").stdout)

    begin = time.monotonic()
    other.portfleet("import", "/run/theirs.json")

    # Half a second for the watcher; the rest is the command itself, on a machine that does other things too.
    assert time.monotonic() - begin < 3
    assert table(one) == table(other)


@pytest.mark.long
def test_doctor_compares_with_a_peer(pair: tuple[FleetBox, FleetBox]) -> None:
    one, other = pair
    one.portfleet("pin", "echo", "198.18.0.10", "1")
    text = one.portfleet("export").stdout
    other.boxes.host.run(*other.argv("import", "-"), text=text)
    other.boxes.host.run("sh", "-c", "cat > /run/theirs.json", text=text)
    assert (
        "slots, marks and pins are alike" in other.portfleet("doctor", "--peer", "/run/theirs.json", check=False).stdout
    )

    other.portfleet("unpin", "echo", "198.18.0.10")

    said = other.portfleet("doctor", "--peer", "/run/theirs.json", check=False).stdout
    assert "echo: pins differ" in said
    # A host is asked by what PORTFLEET_SSH names, here a shell on this very box.
    path = f"{Path(PORTFLEET).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "PORTFLEET_SSH": "sh -c 'shift; PORTFLEET_HOME=/run/pf exec sh -c \"$*\"' x"}
    said = other.boxes.host.run(*other.argv("doctor", "--peer", "box2"), check=False, env=env).stdout
    assert "slots, marks and pins are alike" in said, said


def test_an_import_is_refused_where_the_configs_differ(pair: tuple[FleetBox, FleetBox]) -> None:
    one, other = pair
    text = one.portfleet("export", "echo").stdout.replace('"instances": 4', '"instances": 6', 1)
    before = other.snapshot()

    done = other.boxes.host.run(*other.argv("import", "-"), text=text, check=False)

    assert done.returncode == 2
    assert "service.echo.instances differs: 4 here, 6 there" in done.stderr
    assert other.snapshot() == before


def test_an_operation_that_runs_is_not_run_over(pair: tuple[FleetBox, FleetBox]) -> None:
    one, other = pair
    one.portfleet("pin", "echo", "198.18.0.9", "1")
    other.boxes.host.run("sh", "-c", "cat > /run/theirs.json", text=one.portfleet("export").stdout)
    other.portfleet("restart", "echo", "--no-wait")

    done = other.portfleet("import", "/run/theirs.json", check=False)

    assert done.returncode == 5 and "service echo is locked" in done.stderr
    other.portfleet("cancel", "echo")
    wait_for("it is undone", lambda: other.portfleet("import", "/run/theirs.json", check=False).returncode == 0)
