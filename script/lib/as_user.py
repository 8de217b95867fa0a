"""Run a command as an ordinary user, in a copy of the working tree: `as_user.py COMMAND…`; needs root.

The user is a system user without a range in /etc/subuid, the environment that of its first login: no sbin in PATH. The
copy lies below /var/tmp, since nobody but root reaches a checkout below a 0700 home. When the command ends, however it
ends, every process of the user is killed, and user and copy are removed.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from root import TOP, RootError, carried, run

#: Of an ordinary user of Debian (login.defs, ENV_PATH).
PATH = "/usr/local/bin:/usr/bin:/bin"


@contextmanager
def user(home: Path) -> Iterator[pwd.struct_passwd]:
    """Make a user for the length of the block; at its end all that the user runs is killed."""
    name = f"portfleet-{secrets.token_hex(4)}"
    run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", name)
    made = pwd.getpwnam(name)
    try:
        yield made
    finally:
        # -1: every process that the sender may signal, which for an ordinary user are its own (kill(2)).
        subprocess.run([*become(made), "kill", "-KILL", "--", "-1"], check=False, stderr=subprocess.DEVNULL)
        run("userdel", name)


def become(made: pwd.struct_passwd) -> list[str]:
    """Return the command line that runs another one as the user, with nothing of root's left."""
    return ["setpriv", f"--reuid={made.pw_uid}", f"--regid={made.pw_gid}", "--clear-groups", "--inh-caps=-all", "--"]


def copy(checkout: Path, owner: pwd.struct_passwd) -> None:
    """Copy the working tree as it is now, committed or not, without what git ignores; the user owns it."""
    ignored = [line.rstrip("/") for line in (TOP / ".gitignore").read_text().splitlines()]
    shutil.copytree(TOP, checkout, symlinks=True, ignore=shutil.ignore_patterns(".git", *ignored))
    for folder, folders, files in os.walk(checkout.parent):
        for entry in (".", *folders, *files):
            os.chown(Path(folder, entry), owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def environment(made: pwd.struct_passwd) -> dict[str, str]:
    """Return what the user's login shell would have, and how this machine reaches packages."""
    login = {"HOME": made.pw_dir, "USER": made.pw_name, "LOGNAME": made.pw_name, "SHELL": made.pw_shell, "PATH": PATH}
    return carried() | login | {"LANG": "C.UTF-8"}


def as_user(command: list[str]) -> int:
    """Run ``command`` in the copy and give its exit status (128 + N when signal N ended it)."""
    home = Path(tempfile.mkdtemp(prefix="portfleet-user-", dir="/var/tmp"))
    try:
        with user(home) as made:
            copy(home / "portfleet", made)
            done = subprocess.run(
                [*become(made), *command], cwd=home / "portfleet", env=environment(made), umask=0o022, check=False
            )
    finally:
        shutil.rmtree(home)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def stop(number: int, _frame: types.FrameType | None) -> None:
    """Take a signal for the end of the command: what was made is removed on the way out."""
    sys.exit(128 + number)


def main(command: list[str]) -> int:
    """Take the command line; see the top of this file."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    try:
        return as_user(command)
    except RootError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
