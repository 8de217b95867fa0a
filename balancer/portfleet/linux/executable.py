"""Whether a command can be executed by the user whose process it will be: what execve(2) would refuse, in words.

The answer is the kernel's own: a child takes on the user, with its groups as supervisord sets them, and asks access(2).
So access lists, user namespaces and mounts with ``noexec`` count as they do at the start itself.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

#: How many interpreters of interpreters the kernel follows (fs/exec.c), and bytes of a first line (BINPRM_BUF_SIZE).
_DEPTH, _HEAD = 5, 256
#: Seconds for the child, which looks at files that may lie on a network.
_SECONDS = 20
#: Where formats that are neither ELF nor scripts are made known (binfmt_misc).
_FORMATS = "/proc/sys/fs/binfmt_misc"
_BLANKS = re.compile(r"[ \t]+")


@dataclass(frozen=True)
class Start:
    """What is to be executed: a command by its first word, in ``directory`` (None: any), as ``user`` (None: as we are).

    ``path`` is the PATH by which a command without a slash is found.
    """

    command: str
    directory: str | None
    user: str | None
    path: str


def faults(starts: Iterable[Start]) -> dict[Start, str]:
    """Return why starts would fail, in words; those that can be made are left out. Users must exist."""
    found: dict[Start, str] = {}
    others: list[Start] = []
    for start in dict.fromkeys(starts):
        if start.user is None or pwd.getpwnam(start.user).pw_uid == os.geteuid():
            found[start] = _fault(start)
        else:
            others.append(start)
    if others:
        found |= zip(others, _asked(others), strict=True)
    return {start: words for start, words in found.items() if words}


def _asked(starts: list[Start]) -> list[str]:
    """Return what a child says of each start, as a process of the user in question."""
    command = [sys.executable, "-I", __file__]
    asked = json.dumps([astuple(start) for start in starts])
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=_SECONDS, check=True)
        return [str(words) for words in json.loads(done.stdout)]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return [f"whether it can be executed was not to be found out: {error}"] * len(starts)


def _as_users(starts: list[Start]) -> Iterator[str]:
    """Return the fault of each start; this process becomes each user in turn, and keeps the right to come back."""
    for start in starts:
        entry = pwd.getpwnam(start.user or "root")
        groups = [group.gr_gid for group in grp.getgrall() if start.user in group.gr_mem]
        before = os.getgroups()
        os.setgroups([entry.pw_gid, *groups])
        os.setresgid(entry.pw_gid, entry.pw_gid, 0)
        os.setresuid(entry.pw_uid, entry.pw_uid, 0)
        yield _fault(start)
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(before)


def _fault(start: Start) -> str:
    if start.directory is not None and (words := _directory_fault(Path(start.directory))):
        return words
    return _command_fault(start.command, start.path, depth=_DEPTH)


def _directory_fault(directory: Path) -> str:
    if words := _missing(directory):
        return words
    if not directory.is_dir():
        return f"{directory} is no directory"
    return "" if os.access(directory, os.X_OK) else f"{_who()} may not enter {_described(directory)}"


def _command_fault(command: str, path: str, *, depth: int) -> str:
    """Return why ``command`` cannot be executed; an interpreter that it names is looked at the same way."""
    file: Path | None = Path(command)
    if "/" not in command:
        file = next((one for folder in path.split(os.pathsep) if _exists(one := Path(folder, command))), None)
    if file is None:
        return f"{command} is not found, or {_who()} may not see it; searched: {path}"
    if words := _missing(file):
        return words
    if not stat.S_ISREG(file.stat().st_mode):
        return f"{file} is no file"
    if not os.access(file, os.X_OK):
        return f"{_who()} may not execute {_described(file)}"
    return _format_fault(file, path, depth=depth)


def _format_fault(file: Path, path: str, *, depth: int) -> str:
    """Return why the kernel could not run a file that may be executed: what it names in its first line, or its kind."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return ""  # a binary need not be readable; of a script its interpreter would say so
    if not head.startswith(b"#!"):
        known = head.startswith(b"\x7fELF") or _has_formats()
        return "" if known else f"{file} is neither a binary nor a script: its first line must begin with #!"
    line = os.fsdecode(head[2:].split(b"\n")[0]).strip(" \t")
    words = _BLANKS.split(line, maxsplit=1)  # not at the \r of a file from Windows, which the kernel leaves in the name
    if not line or not depth:
        return f"{file} names no interpreter after #!" if depth else f"the interpreters of {file} go round in a circle"
    interpreter = words[0] if "/" in words[0] else f"./{words[0]}"
    if fault := _command_fault(interpreter, path, depth=depth - 1):
        return f"{file} is run by {words[0]!r}: {fault}"
    if Path(interpreter).name == "env" and len(words) > 1 and (asked := _by_env(words[1])):
        fault = _command_fault(asked, path, depth=depth - 1)
        return f"{file} is run by {asked!r}: {fault}" if fault else ""
    return ""


def _by_env(arguments: str) -> str:
    """Return the command that env(1) is to run by the first line of a script; "" if that is not plain."""
    words = arguments.removeprefix("-S").split()
    return words[0] if words and not words[0].startswith("-") and "=" not in words[0] else ""


def _missing(place: Path) -> str:
    """Return why ``place`` cannot be reached: it is not there, or a directory on the way is closed; "" if it can."""
    try:
        place.stat()
    except PermissionError:
        folders = [*place.absolute().parents][::-1]
        closed = next((one for one in folders if not os.access(one, os.X_OK)), place)
        if closed is not place and not closed.is_symlink():
            return f"{_who()} may not enter {_described(closed)}, on the way to {place}"
        return f"{_who()} may not go where {closed} points: {closed.readlink()}"
    except OSError as error:
        return f"{place} does not exist" if isinstance(error, FileNotFoundError) else f"{place}: {error.strerror}"
    return ""


def _described(place: Path) -> str:
    """Return a place with its mode and owner, by which one sees why it is closed."""
    found = place.stat()
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    return f"{place} ({stat.filemode(found.st_mode)} {owner})"


def _who() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def _exists(place: Path) -> bool:
    try:
        place.stat()
    except OSError:
        return False
    return True


def _has_formats() -> bool:
    """Return whether binfmt_misc knows formats of its own: it always has the files ``register`` and ``status``."""
    try:
        return len(os.listdir(_FORMATS)) > 2
    except OSError:
        return False


if __name__ == "__main__":
    print(json.dumps(list(_as_users([Start(*fields) for fields in json.load(sys.stdin)]))))
