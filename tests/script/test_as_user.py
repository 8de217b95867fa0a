"""script/as-user: the command runs as an ordinary user, and nothing of user and copy is there outside or afterwards."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from pathlib import Path

import pytest

from support.rights import needs_another_user
from support.sandbox import wait_for

TOP = Path(__file__).parents[2]
AS_USER = str(TOP / "script/as-user")

#: Before a command: gives it a /tmp of its own, for after a SIGKILL script/isolated leaves an empty mount point there.
OWN_TMP = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /tmp && exec "$@"', "own-tmp")

pytestmark = [needs_another_user, pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")]


def database() -> list[str]:
    return [Path("/etc", name).read_text() for name in ("passwd", "group")]


@pytest.mark.long
def test_the_command_has_a_user_without_rights_and_a_checkout_of_its_own() -> None:
    before = database()
    script = (
        "id -un; id -u; id -G; pwd; echo $PATH; grep -E '^Cap(Prm|Eff)' /proc/self/status | cut -f2 | sort -u; "
        "touch script/demo && echo mine; test -w /etc/passwd || echo not mine; ls -d .venv .git 2>/dev/null"
    )
    done = subprocess.run([AS_USER, "sh", "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    name, number, groups, folder, path, rights, mine, not_mine = done.stdout.splitlines()
    assert name == "ordinary" and groups == number
    with pytest.raises(KeyError):
        pwd.getpwuid(int(number))
    assert Path(folder).name == TOP.name and not Path(folder).exists()
    assert "sbin" not in path and int(rights, 16) == 0
    assert (mine, not_mine) == ("mine", "not mine")
    assert database() == before


@pytest.mark.long
def test_the_exit_status_is_the_commands() -> None:
    assert subprocess.run([AS_USER, "sh", "-c", "exit 7"], check=False).returncode == 7


@pytest.mark.long
def test_in_a_user_namespace_of_its_own_the_user_is_root_and_finds_its_programs() -> None:
    script = "script/isolated sh -c 'id -u; nft add table inet x && nft list tables'"
    done = subprocess.run([AS_USER, "sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == ["0", "table inet x"]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_it_takes_everything_along(number: signal.Signals) -> None:
    before = database()
    marker = f"98765.{os.getpid()}"
    script = f"setsid sleep {marker} & echo up; exec sleep {marker}"
    command = [*OWN_TMP, AS_USER, "sh", "-c", script]
    environment = {**os.environ, "TMPDIR": "/tmp"}  # noqa: S108 (its own)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(number)
    wait_for("nothing of it runs", lambda: not running(marker))
    assert database() == before


def running(marker: str) -> list[str]:
    """Return the processes whose command line has ``marker``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if marker.encode() in words:
            found.append(process.name)
    return found
