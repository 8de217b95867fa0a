"""Become an ordinary user with a copy of the working tree, then run a command: `as_user.py COMMAND…`.

Run by script/as-user as root in script/isolated, whose mount namespace holds all of it: a user database with one user
more, and a /tmp of its own with the user's home and the copy. The machine's are not touched, and when the command ends,
however it ends, the kernel ends what it started and drops the rest.

The environment is that of a user's login, with no sbin in PATH, and what says how to reach packages. The user has no
range in /etc/subuid, so that in its own namespaces there is root and no other user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path

from root import TOP, RootError, carried, run

NAME, TMP = "ordinary", Path("/tmp")  # noqa: S108 (of this mount namespace alone)
HOME = TMP / "home"
#: Of an ordinary user of Debian (login.defs(5), ENV_PATH).
PATH = "/usr/local/bin:/usr/bin:/bin"


def add_user(folder: Path) -> int:
    """Put a user, and a group of the same number, into this mount namespace's user database; return the number."""
    taken = {user.pw_uid for user in pwd.getpwall()}
    number = next(number for number in range(60_000, 64_000) if number not in taken)
    for name, line in (
        ("passwd", f"{NAME}:x:{number}:{number}::{HOME}:/bin/sh"),
        ("group", f"{NAME}:x:{number}:"),
    ):
        database = folder / name
        database.write_text(Path("/etc", name).read_text().rstrip("\n") + f"\n{line}\n")
        run("mount", "--bind", database, f"/etc/{name}")
    return number


def copy_checkout(home: Path, owner: int) -> None:
    """Copy the working tree as it is now, committed or not and without what git ignores, and give it to ``owner``."""
    ignored = [line.rstrip("/") for line in (TOP / ".gitignore").read_text().splitlines()]
    shutil.copytree(TOP, home / TOP.name, symlinks=True, ignore=shutil.ignore_patterns(".git", *ignored))
    for folder, folders, files in os.walk(home):
        for entry in (".", *folders, *files):
            os.chown(Path(folder, entry), owner, owner, follow_symlinks=False)


def main(command: list[str]) -> None:
    """Take the command line; see the top of this file. Does not return but for an error."""
    folder = Path(os.environ["TMPDIR"])  # a tmpfs of script/isolated
    environment = carried() | {"LANG": "C.UTF-8", "PATH": PATH, "HOME": str(HOME), "SHELL": "/bin/sh"}
    environment |= {"USER": NAME, "LOGNAME": NAME}
    number = add_user(folder)
    copy_checkout(folder / HOME.name, number)
    run("mount", "--move", folder, TMP)
    os.chdir(HOME / TOP.name)
    os.umask(0o022)
    become = ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", "--inh-caps=-all", "--"]
    os.execvpe(become[0], [*become, *command], environment)  # noqa: S606 (no shell)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RootError as error:
        sys.exit(str(error))
