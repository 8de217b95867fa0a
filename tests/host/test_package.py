"""The Debian package on a booted host: installed, upgraded with connections open, rebooted, removed and purged."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy import ANSIBLE, Ansible
from nspawn import Host
from support.booted import ask, load
from support.sandbox import wait_for

pytestmark = pytest.mark.host

PACKAGE = ANSIBLE.parent / "script/lib/package.py"
PYTHON = ANSIBLE.parent / ".venv/bin/python"
#: The daemon in the example needs no file of its own; as the user that the package makes.
USER = 's/^# user .*/user = "portfleet"/; s/^instances .*/instances = 2/'


@pytest.fixture
def bare(deployed: dict[str, Host], ansible: Ansible) -> Iterator[Host]:
    """Return a host that the role was uninstalled from; deployed again afterwards."""
    two = deployed["two"]
    found = re.search(r"^## Uninstall\n\n((?:    .*\n)+)", (ANSIBLE.parent / "docs/deploy.md").read_text(), re.M)
    assert found is not None
    for command in found[1].splitlines():
        two.run(command)
    try:
        yield two
    finally:
        again = ansible.play("site.yml", "--limit", "two")
    assert again.code == 0, again.output


def give(host: Host, folder: Path, *version: str) -> str:
    """Build the package and put it onto the host; return its path there."""
    done = subprocess.run([PYTHON, PACKAGE, folder, *version], capture_output=True, text=True, check=True)
    deb = Path(done.stdout.strip())
    shutil.copy(deb, host.root / "srv" / deb.name)
    return f"/srv/{deb.name}"


def test_from_installation_to_purge(bare: Host, tmp_path: Path, measured: Callable[[str], None]) -> None:
    old, new = give(bare, tmp_path), give(bare, tmp_path, "0.1.99")
    began = time.monotonic()
    bare.run(f"dpkg -i {old}")
    assert bare.run("systemctl is-enabled portfleet", check=False).stdout == "disabled\n"
    bare.run(f"portfleet init && sed -i '{USER}' /etc/portfleet/fleet.toml && systemctl enable --now portfleet")
    wait_for("it serves", lambda: (ask(bare)[0] or "").endswith("release=v1"))
    measured(f"package: installed, configured and serving after {time.monotonic() - began:.1f} s")

    with load(bare) as clients:
        bare.run("portfleet cutover echo --release v2")
        bare.run("portfleet rollback echo")
        bare.run(f"dpkg -i {new}")
        assert bare.run("portfleet --version").stdout == "portfleet 0.1.99\n"
        bare.run("portfleet status -q")
        bare.run("portfleet restart echo")
    measured(f"package: release, rollback, upgrade and restart: {clients}")
    assert clients.failed == 0, clients.report

    bare.reboot()
    wait_for("it serves after a reboot", lambda: (ask(bare)[0] or "").endswith("release=v1"), seconds=60)
    bare.run("dpkg -r portfleet")
    assert bare.run("nft list ruleset").stdout == "" and ask(bare) == [None]
    bare.run(f"dpkg -P portfleet; rm {old} {new}")
    left = bare.run("find / -xdev -name '*portfleet*' -not -path '/proc/*' -not -path '/sys/*'").stdout.split()
    assert [path for path in left if not path.startswith(("/var/log/journal", "/run/systemd"))] == []
    assert bare.run("id portfleet", check=False).returncode != 0
