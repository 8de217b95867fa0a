"""The files that are made for an instance before it starts: templates with the placeholders of commands filled in.

They are written as root into directories that the config names, so no other user may have a say in any directory on the
way there: whoever may rename one could have root write, and own, another file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.placeholders import expand, placeholders
from portfleet.core.program import Program
from portfleet.linux.machine import in_first_user_namespace
from portfleet.store import atomic

#: Of a template, in bytes: far above a config's size, and a file without end is none.
_LARGEST = 1 << 20
#: Who owns what this user namespace has no number for (/proc/sys/kernel/overflowuid): not one of its users.
_UNMAPPED = 65534
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Rendered:
    """The files of one program. ``folder`` is where relative templates lie; methods raise PortfleetError."""

    program: Program
    folder: Path

    @property
    def service(self) -> str:
        """The service that the program is of."""
        return self.program.values["service"]

    def contents(self) -> Mapping[Path, bytes]:
        """Return each file's content; raise PortfleetError for a template that cannot be read or filled in."""
        return {Path(target): self._filled(self.folder / template) for target, template in self.program.files.items()}

    def check(self) -> None:
        """Raise PortfleetError if the files cannot be made, or not safely."""
        for target in self.contents():
            self._check_directory(target)

    def digest(self) -> str:
        """Return what changes with each change of a file; "" for a program without files."""
        if not self.program.files:
            return ""
        parts = [f"{target}\0{len(content)}\0".encode() + content for target, content in self.contents().items()]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def write(self) -> None:
        """Write the files, for the program's user alone; raise OSError too."""
        user = pwd.getpwnam(self.program.user) if self.program.user else None
        owner = (user.pw_uid, user.pw_gid) if user is not None else None
        for target, content in self.contents().items():
            self._check_directory(target)
            for directory in reversed([path for path in target.parents if not path.exists()]):
                directory.mkdir(mode=0o700, exist_ok=True)
                directory.chmod(0o755)
            atomic.write(target, content, owner=owner, durable=False)

    def _filled(self, template: Path) -> bytes:
        try:
            if not stat.S_ISREG(template.stat().st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            with template.open("rb") as file:
                data = file.read(_LARGEST + 1)
        except (OSError, ValueError) as error:
            words = error.strerror if isinstance(error, OSError) else str(error)
            hint = f"write it there; a relative name is looked for in {self.folder}"
            raise self._refuse(f"template {template} of {self.service} cannot be read: {words}", hint) from None
        if len(data) > _LARGEST:
            raise self._refuse(f"template {template} is longer than {_LARGEST:,} bytes", "shorten it")
        text = data.decode(errors="surrogateescape")
        values = self.program.values
        if unknown := sorted(placeholders([text]) - values.keys()):
            hint = f"known: {', '.join(f'{{{word}}}' for word in values)}; to keep {{x}} as it is write {{{{x}}}}"
            raise self._refuse(f"template {template}: unknown placeholder {{{unknown[0]}}}", hint)
        return expand(text, values).encode(errors="surrogateescape")

    def _check_directory(self, target: Path) -> None:
        """Raise PortfleetError if another user could change what the path to a file leads to, or if it is none."""
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise self._refuse(f"{target} is there and is no regular file", f"remove it: rm -r {target}")
        directory = Path(os.path.realpath(target.parent)) / target.name
        pairs = [pair for path in (target, directory) for pair in pairwise((path, *path.parents))]
        if open_to_others := next((above for one, above in pairs if _is_open(above, to=one)), None):
            raise self._refuse(
                f"files of {self.service} would lie below {open_to_others}, to which other users may write",
                "choose a directory in /run or /etc; or take the right from them: "
                f"chown root {open_to_others} && chmod go-w {open_to_others}",
            )

    def _refuse(self, message: str, hint: str) -> PortfleetError:
        return PortfleetError(message, hint=hint, code=Exit.USAGE)


def _is_open(directory: Path, *, to: Path) -> bool:
    """Return whether another user can change what the name ``to`` in a directory stands for.

    In a sticky one (/tmp) no user can rename what is another's, so a directory that is there is safe in it.
    """
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return False  # it is made
    if directory == Path("/"):
        return False  # whoever owns that has all there is; in containers it may be a user that is not root
    if found.st_uid not in (0, os.geteuid()) and (found.st_uid != _UNMAPPED or in_first_user_namespace()):
        return True
    if stat.S_ISLNK(found.st_mode):
        return False  # whoever can change it owns it, or the directory above
    sticky = found.st_mode & stat.S_ISVTX and to.is_dir()
    return not stat.S_ISDIR(found.st_mode) or bool(found.st_mode & _OTHERS_WRITE and not sticky)
