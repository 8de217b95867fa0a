"""The two commands on a machine that has nothing: minimal Debian with python3 and apt, and a clean clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
ROOTS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portfleet" / "roots"

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap needs root"),
    pytest.mark.skipif(not shutil.which("debootstrap"), reason="script/setup --roots installs debootstrap"),
]


def bare_root(suite: str, *command: str, minutes: float = 20) -> tuple[int, str]:
    """Run script/bare-root, show what it printed, and check that nothing of it is left."""
    done = subprocess.run(
        [TOP / "script/bare-root", suite, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=minutes * 60,
        check=False,
    )
    print(done.stdout)
    assert str(ROOTS) not in Path("/proc/self/mountinfo").read_text(), "a mount is left"
    assert not list(ROOTS.glob("*-run-*")), "a root is left"
    return done.returncode, done.stdout


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_demo_and_tests_pass_on_a_machine_with_nothing(suite: str) -> None:
    """Each of the two commands does all the set-up it needs by itself."""
    status, said = bare_root(suite)

    assert status == 0
    assert "apt: installing nftables" in said, "the root was not bare"
    assert "everything shown above was checked" in said
    last = said.strip().splitlines()[-1]
    assert re.search(r"\d+ passed", last), f"the last line is not pytest's closing line: {last}"
    assert not re.search(r"failed|error", last)


#: One root for all of these, because a root takes half a minute; each prints "== NAME", its output and "rc=N".
SCENES = r"""
scene() { printf '== %s\n' "$1"; shift; bash -c "$*" 2>&1; printf 'rc=%d\n' $?; }
scene fresh          script/setup
scene ready          script/setup
scene tests          script/setup --tests
scene still-ready    script/setup
scene no-service     'ls /usr/sbin/policy-rc.d /etc/rc2.d/S*redis* /etc/systemd/system/multi-user.target.wants/redis*'
useradd -m other
rm .venv/bin/ruff
scene not-writable   su other -c '"script/setup --tests"'
scene file-missing   script/setup --tests
rm -r .venv/lib/python3*/site-packages/mypy
scene package-broken script/setup --tests
ln -sf /nonexistent .venv/bin/python3
scene dangling       script/setup --tests
rm -r .venv/setup-stamp .venv/lib/python3*/site-packages/pip
scene half-made      script/setup --tests
rm -r .venv
scene two-at-once    'script/setup & script/setup; first=$?; wait $! && exit $first'
mv /srv/portfleet /srv/elsewhere; cd /srv/elsewhere
scene moved          'script/setup --tests && .venv/bin/pytest --version'
dpkg --purge --force-depends conntrack >/dev/null
scene not-root       su other -c '"script/setup --tests"'
scene user-isolated  su other -c '"script/isolated sh -c \"id -u; nft add table inet x && nft list tables\""'
scene blocked        su other -c '"unshare -U --map-current-user --keep-caps sh -c \"
                       echo 0 >/proc/sys/user/max_user_namespaces; script/isolated true\""'
"""


@pytest.fixture(scope="module")
def scenes() -> dict[str, tuple[int, str]]:
    _, said = bare_root("bookworm", "bash", "-c", SCENES)
    found = re.findall(r"^== (\S+)\n(.*?)^rc=(\d+)$", said, re.MULTILINE | re.DOTALL)
    return {name: (int(status), text) for name, text, status in found}


@pytest.mark.parametrize(
    ("name", "status", "wanted"),
    [
        ("fresh", 0, ["apt: installing nftables", "venv: making .venv", "set-up is complete"]),
        ("ready", 0, ["set-up is complete"]),
        ("tests", 0, ["apt: installing python3-venv", "not what is needed"]),
        ("still-ready", 0, ["set-up is complete"]),
        ("no-service", 2, ["policy-rc.d': No such file", "redis*': No such file"]),
        ("not-writable", 1, ["is not other's to write", "hint: run this as root"]),
        ("file-missing", 0, ["not what is needed", "set-up is complete"]),
        ("package-broken", 0, ["not what is needed", "set-up is complete"]),
        ("dangling", 0, ["not what is needed", "set-up is complete"]),
        ("half-made", 0, ["not what is needed", "set-up is complete"]),
        ("two-at-once", 0, ["another set-up of this checkout is at work"]),
        ("moved", 0, ["not what is needed", "set-up is complete", "pytest "]),
        ("not-root", 1, ["only root can install them: conntrack", "hint: sudo apt-get install"]),
        ("user-isolated", 0, ["0\n", "table inet x"]),
        ("blocked", 1, ["user.max_user_namespaces is 0", "hint: or run it as root"]),
    ],
)
def test_set_up_mends_what_it_can_and_says_what_it_cannot(
    scenes: dict[str, tuple[int, str]], name: str, status: int, wanted: list[str]
) -> None:
    got, said = scenes[name]
    assert got == status, said
    for words in wanted:
        assert words in said


def test_set_up_says_what_is_missing_without_a_network() -> None:
    status, said = bare_root("bookworm", "--no-network", "script/setup")

    assert status == 1
    assert "setup: apt cannot install what is missing: nftables" in said
    assert "hint: this needs the network" in said


def test_the_kernel_tests_pass_with_nft_of_debian_13() -> None:
    done = subprocess.run(
        [TOP / "script/in-debian13"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    print(done.stdout, done.stderr)

    assert done.returncode == 0
    assert "nftables v1.1" in done.stdout
    assert re.search(r"\d+ passed", done.stdout.strip().splitlines()[-1])
