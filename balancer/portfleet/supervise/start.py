"""Starts supervisord: through systemd where portfleet.service is enabled, else by itself; or becomes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from portfleet.core.errors import PortfleetError
from portfleet.core.paths import Paths
from portfleet.core.program import UMASK
from portfleet.linux import machine, processes
from portfleet.linux.machine import environment_of
from portfleet.supervise import adopted
from portfleet.supervise.presence import supervisor_pid
from portfleet.supervise.supervisor import Supervisor

UNIT = "portfleet.service"
#: The usual one, whatever the shell, the unit or the watcher that starts it has.
_UMASK = int(UMASK, 8)
#: Where units are: an administrator's, then those of packages (systemd.unit(5)).
_UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")


def start_supervisord(paths: Paths, *, seconds: float = 20, clock: Callable[[], float] = time.monotonic) -> None:
    """Start supervisord, whose files are there, and return when it answers.

    Raise PortfleetError with its own words if it does not.
    """
    Supervisor(paths.supervisor_socket).refuse_ending()
    adopted.set_aside(paths, adopted.started(paths) | adopted.alive(paths))
    said = _by_systemd() if by_systemd(paths) else _by_itself(paths)
    wait_for_supervisord(paths, seconds=seconds, clock=clock, said=said)


def by_systemd(paths: Paths) -> bool:
    """Return whether it is systemd's unit that starts supervisord for this home."""
    return paths.home is None and unit_enabled()


def wait_for_supervisord(
    paths: Paths, *, seconds: float = 60, clock: Callable[[], float] = time.monotonic, said: str = ""
) -> None:
    """Return when supervisord answers; raises PortfleetError after ``seconds``, with what its starter ``said``."""
    deadline = clock() + seconds
    while not Supervisor(paths.supervisor_socket).running():
        if clock() > deadline:
            raise PortfleetError(
                f"supervisord did not begin to answer within {seconds:.0f} s{said}",
                hint=f"see {paths.log / 'supervisord.log'}",
            )
        time.sleep(0.02)


def by_unit() -> bool:
    """Return whether this is the unit's ExecStartPost=, beside which supervisord is being started (systemd.exec(5))."""
    return "MAINPID" in os.environ


def become_supervisord(paths: Paths) -> NoReturn:
    """Replace this process by a supervisord in the foreground, for a service manager to run."""
    os.chdir("/")
    os.umask(_UMASK)
    os.execve(sys.executable, [*_command(paths), "--nodaemon"], _environment())  # noqa: S606 (no shell)


def unit_enabled() -> bool:
    """Return whether systemd runs the fleet on this machine."""
    if not Path("/run/systemd/system").is_dir() or not shutil.which("systemctl"):
        return False
    asked = ["systemctl", "is-enabled", "--quiet", UNIT]
    return subprocess.run(asked, check=False, stderr=subprocess.DEVNULL).returncode == 0  # "Failed to get …": no unit


def survives_reboot(paths: Paths) -> str:
    """Return what has to be said after a start by hand of what a reboot does to the fleet; "" if it comes up again."""
    if by_systemd(paths):
        return ""
    words = "a reboot ends this fleet"
    if paths.home is not None:
        home = "" if os.environ.get("PORTFLEET_HOME") else f" --home {paths.home}"
        return f"{words}; start it again with: portfleet up{home}"
    if not any(Path(folder, UNIT).exists() for folder in _UNITS):
        words += f"; to start it at boot: portfleet unit > {_UNITS[0]}/{UNIT} && systemctl enable portfleet"
        return words
    return f"{words}; to start it at boot: systemctl enable portfleet"


def search_path(paths: Paths) -> str:
    """Return the PATH by which supervisord finds commands: the running one's, otherwise that of one started now."""
    pid = supervisor_pid(paths)
    found = processes.environment(pid).get(b"PATH") if pid else None
    return os.fsdecode(found) if found else _environment()["PATH"]


def _by_systemd() -> str:
    done = subprocess.run(["systemctl", "start", UNIT], capture_output=True, text=True, check=False)
    return f": {done.stderr.strip()}" if done.stderr.strip() else ""


def _by_itself(paths: Paths) -> str:
    done = subprocess.run(
        _command(paths),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        stdin=subprocess.DEVNULL,
        env=_environment(),
        umask=_UMASK,
    )
    if done.returncode:
        raise PortfleetError(
            f"supervisord does not start: {(done.stderr or done.stdout).strip()}",
            hint=f"see {paths.log / 'supervisord.log'}",
        )
    return ""


def _command(paths: Paths) -> list[str]:
    return [sys.executable, "-m", "supervisor.supervisord", "-c", str(paths.supervisor_config)]


def _environment() -> dict[str, str]:
    """Return what supervisord and all that it runs inherit: the same whoever starts it, and nothing of theirs.

    A shell's environment holds keys, proxies and agents that are no instance's business, and tells programs apart by
    who was the last to run `up`. Only PORTFLEET_… goes through, with which the watcher is told how to log.
    """
    # What tells an instance's processes, and the operator: not of a supervisord that is started by one.
    dropped = ("PORTFLEET_HOME", "PORTFLEET_FAULT", "PORTFLEET_INSTANCE", "PORTFLEET_CONTROL", "PORTFLEET_WHO")
    kept = {name: value for name, value in os.environ.items() if name[:10] == "PORTFLEET_" and name not in dropped}
    own = {"PATH": machine.search_path(), "LANG": "C.UTF-8", "SHELL": "/bin/sh", "PYTHONUNBUFFERED": "1"}
    return kept | environment_of(None) | own
