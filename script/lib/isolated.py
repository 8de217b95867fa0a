"""Run a command in namespaces of its own, so that nothing of it can stay behind: `isolated.py [--network] COMMAND…`.

The command gets a network (loopback only, unless ``--network`` keeps the machine's), PID, mount, IPC and UTS
namespace, and a tmpfs as TMPDIR. Who is not root becomes root of a user namespace. Three processes stand in a row:

    this program   on the outside: passes SIGTERM and SIGHUP on, removes the mount point of the tmpfs at the end
    unshare(1)     blocks SIGTERM and SIGINT while it waits, hence the process before it
    init           PID 1 inside: reaps orphans, ends when the command ends or when the outside is gone

When PID 1 of a PID namespace ends, for whatever reason, the kernel kills the rest of it (pid_namespaces(7)), and with
the last process the other namespaces go. Standard library only: it runs before any set-up.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

#: Written by PID 1 on the pipe to the outside once the namespaces stand.
STARTED = b"started\n"
#: What PID 1 does before the command; $1 is TMPDIR.
_PREPARE = 'mount -t tmpfs -o mode=1777 tmpfs "$1" && if [ "$2" = private ]; then ip link set lo up; fi'
#: How long a command may take to end after SIGTERM before all of it is killed.
GRACE_SECONDS = 10


def namespaces(*, network: bool) -> list[str]:
    """Return the unshare(1) command line for this user; ``network`` keeps the machine's network."""
    flags = ["-m", "-p", "-i", "-u", "--fork", "--mount-proc", "--kill-child=KILL"]
    if not network:
        flags.append("-n")
    if os.geteuid() != 0:
        flags += ["-U", "--map-root-user"]
        # With a range of /etc/subuid and newuidmap the namespace has more users than root, so setuid works in it.
        if shutil.which("newuidmap") and has_subids(Path("/etc/subuid")) and has_subids(Path("/etc/subgid")):
            flags.append("--map-auto")
    return ["unshare", *flags, "--"]


def has_subids(table: Path) -> bool:
    """Say whether ``table`` (/etc/subuid, /etc/subgid) has a range for the calling user."""
    import pwd

    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
        return any(line.split(":")[0] in {name, str(os.geteuid())} for line in table.read_text().splitlines())
    except (KeyError, OSError):
        return False


def outside(command: list[str], *, network: bool) -> int:
    """Run ``command`` isolated and give its exit status (128 + N when signal N ended it)."""
    tmp = tempfile.mkdtemp(prefix="portfleet-")
    lifeline, keep = os.pipe()  # never written: its end tells PID 1 that we are gone, also after a SIGKILL
    started, says = os.pipe()
    inner = [sys.executable, __file__, "--init", str(lifeline), str(says), tmp]
    inner += ["machine" if network else "private", *command]

    def end(_number: int, _frame: types.FrameType | None) -> None:
        """Let go of the lifeline: PID 1 then ends the command, and after the grace everything else."""
        with contextlib.suppress(OSError):
            os.close(keep)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    # A terminal sends Ctrl-C to the command too, which ends by itself. A handler and not SIG_IGN: exec resets it.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        child = subprocess.Popen([*namespaces(network=network), *inner], pass_fds=(lifeline, says))
        os.close(lifeline)
        os.close(says)
        child.wait()
        if os.read(started, len(STARTED)) != STARTED:
            print(why_not(), file=sys.stderr)
    finally:
        Path(tmp).rmdir()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def why_not() -> str:
    """Return why namespaces cannot be made here and what to do."""
    lines = ["script/isolated: cannot make the private namespaces that this needs."]
    if os.geteuid() == 0:
        return lines[0] + "\nhint: root here lacks CAP_SYS_ADMIN (a container?): give it, or run on a machine or VM"
    for name, blocks, allows in (
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu 24.04's default
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
    ):
        path = Path("/proc/sys/" + name.replace(".", "/"))
        if path.exists() and path.read_text().strip() == blocks:
            lines.append(f"hint: {name} is {blocks}: sudo sysctl -w {name}={allows}")
    lines.append("hint: or run it as root")
    return "\n".join(lines)


def inside(lifeline: int, says: int, tmp: str, net: str, command: list[str]) -> int:
    """Be PID 1: prepare, run ``command``, reap everything, and give the command's exit status."""
    wake, wakes = os.pipe()
    for fd in (lifeline, says, wake, wakes):
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wakes)

    def wake_only(_number: int, _frame: types.FrameType | None) -> None:
        """Nothing: the byte on the wake-up pipe is what the loop below sees."""

    os.environ["PATH"] = with_sbin(os.environ.get("PATH", os.defpath))
    subprocess.run(["sh", "-c", _PREPARE, "prepare", tmp, net], check=True)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, wake_only)
    os.write(says, STARTED)
    os.close(says)
    try:
        # Kept to the end: a Popen that goes out of scope takes in its child's exit status, were it that quick.
        process = subprocess.Popen(command, env={**os.environ, "TMPDIR": tmp})
    except OSError as error:
        print(f"script/isolated: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    watched, deadline = [lifeline, wake], math.inf
    while time.monotonic() < deadline:
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], left)
        if wake in ready:
            os.read(wake, 4096)
        if lifeline in ready:
            watched, deadline = [wake], time.monotonic() + GRACE_SECONDS
            os.kill(process.pid, signal.SIGTERM)
        if (status := reap(process.pid)) is not None:
            return status
    return 128 + signal.SIGTERM


def with_sbin(path: str) -> str:
    """Return a search path by which root finds its programs: that of Debian's ordinary users has no nft, no sysctl."""
    folders = path.split(os.pathsep)
    return os.pathsep.join([*folders, *(folder for folder in ("/usr/sbin", "/sbin") if folder not in folders)])


def reap(main: int) -> int | None:
    """Take in every process that has ended; give the exit status of ``main`` if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == main:
                code = os.waitstatus_to_exitcode(ended[1])
                found = code if code >= 0 else 128 - code
    return found


def main(arguments: list[str]) -> int:
    """Take the command line; see the top of this file."""
    if arguments[:1] == ["--init"]:
        return inside(int(arguments[1]), int(arguments[2]), arguments[3], arguments[4], arguments[5:])
    network = arguments[:1] == ["--network"]
    command = arguments[1:] if network else arguments
    if not command or command[0].startswith("-"):
        print("usage: script/isolated [--network] COMMAND [ARGUMENT…]", file=sys.stderr)
        return 2
    return outside(command, network=network)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
