"""The Debian package on a host of its own: installed, serving, released, upgraded, rebooted, removed, purged."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nspawn
from nspawn import Host
from support.booted import ask, load, status
from support.sandbox import wait_for

pytestmark = pytest.mark.host

REDIS = """
[service.cache]
listen    = ["0.0.0.0:6379"]
command   = ["redis-server", "--port", "{port}", "--save", "", "--dir", "/tmp", "--protected-mode", "no"]
user      = "portfleet"
instances = 2
ports     = "7200-7299"
"""
#: What is on the disk under our name; not the journal's files, and what lies on the host for this test.
FIND = "find / -xdev -name '*portfleet*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/root/*'"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends"


@pytest.fixture(scope="module")
def fresh() -> Iterator[Host]:
    """Return a booted host of its own, with nothing of ours."""
    with nspawn.hosts(Path(os.environ["PORTFLEET_IMAGE"]), ("three",)) as hosts:
        yield hosts["three"]


@pytest.fixture
def packages() -> dict[str, Path]:
    """Return the package of this checkout and one of a newer version, in this order, by version."""
    found = sorted(Path(os.environ["PORTFLEET_PACKAGES"]).glob("*.deb"), key=lambda deb: deb.name.split("_")[1])
    return {deb.name.split("_")[1]: deb for deb in found}


def serves(host: Host) -> bool:
    """Return whether a client of each service is answered."""
    return ask(host) != [None] and ask(host, port=6379, message="PING\r\n") == ["+PONG"]


def names(host: Host) -> set[str]:
    """Return the paths under our name on the host's disk."""
    return set(host.run(FIND, check=False).stdout.split())


def test_from_installation_to_purge(fresh: Host, packages: dict[str, Path], measured: Callable[[str], None]) -> None:
    (version, old), (newer, new) = packages.items()
    assert newer == f"{version}.1"
    for deb in (old, new):
        shutil.copy(deb, fresh.root / "root")
    fresh.run(f"{APT} install redis-server && systemctl disable -q --now redis-server")

    before = names(fresh)
    began = time.monotonic()
    fresh.run(f"{APT} install /root/{old.name}")
    installed = time.monotonic()
    fresh.run("portfleet init && systemctl enable -q --now portfleet")
    wait_for("a client is answered", lambda: ask(fresh) != [None])
    measured(f"package: installed in {installed - began:.1f} s, serving {time.monotonic() - installed:.1f} s later")

    with (fresh.root / "etc/portfleet/fleet.toml").open("a") as config:
        config.write(REDIS)
    fresh.run("portfleet apply")
    wait_for("redis is answered", lambda: serves(fresh))

    with (
        load(fresh, message="who\n") as clients,
        load(fresh, port=6379, message="PING\r\n", held=20, connects=10) as redis,
    ):
        fresh.run("portfleet cutover echo --release v2")
        assert status(fresh)["release"] == "v2"
        fresh.run("portfleet rollback echo")
        assert status(fresh)["release"] == "v1"
        pids = [one["pid"] for one in status(fresh)["instances"]]
        began = time.monotonic()
        fresh.run(f"{APT} install /root/{new.name}")
        took = time.monotonic() - began
        assert fresh.run("portfleet --version").stdout == f"portfleet {newer}\n"
        wait_for("the new watcher answers", lambda: fresh.run("portfleet status -q", check=False).returncode == 0)
        assert [one["pid"] for one in status(fresh)["instances"]] == pids, "an upgrade restarts no instance"
        fresh.run("portfleet restart echo")  # into the new version, connections handed off
    measured(f"package: release, rollback, upgrade ({took:.1f} s), restart: echo {clients}; redis {redis}")
    assert clients.failed == 0, clients.report
    assert redis.failed == 0, redis.report

    began = time.monotonic()
    fresh.reboot()
    wait_for("both serve again", lambda: serves(fresh), seconds=60)
    measured(f"package: reboot to both services answering: {time.monotonic() - began:.1f} s")

    began = time.monotonic()
    fresh.run(f"{APT} remove portfleet")
    measured(f"package: removed in {time.monotonic() - began:.1f} s")
    assert fresh.run("nft list ruleset").stdout == ""
    assert fresh.run("pgrep -af '/opt/[p]ortfleet|[r]edis-server'", check=False).stdout == ""
    assert fresh.run("cat /etc/portfleet/fleet.toml").stdout.endswith(REDIS), "the config stays"
    assert fresh.run("id portfleet", check=False).returncode == 0

    fresh.run(f"{APT} purge portfleet")
    left = {path for path in names(fresh) - before if not re.match(r"/var/log/journal/", path)}
    assert left == set()
    assert fresh.run("id portfleet", check=False).returncode != 0
