"""Files that hold secrets: a service's environment file and the page's token. No secret is in any error or log."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.program import unquotable, unwritable

_NAME = re.compile(r"(?!PORTFLEET_)[A-Za-z_][A-Za-z0-9_]*")
#: What no guess finds and a cookie or a form can hold.
_TOKEN = re.compile(r"[!-~]{24,200}")
#: In bytes: no environment is near it, and a file without end is none.
_LARGEST = 1 << 16


def read(path: Path) -> dict[str, str]:
    """Return the variables of a file; raise PortfleetError (exit 2) if others may read it, or for a line that is none.

    Lines are ``NAME=value``, blank, or begin with #; one pair of quotes around a value is left out.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.strip().partition("=")
        if not equals or not _NAME.fullmatch(name):
            words = "is not NAME=value, with a name of letters, digits and _ that does not start with PORTFLEET_"
            raise _refused(f"{path}:{number}: {words}", "write it as TOKEN=abc")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        if trouble := unwritable(value) or unquotable(value):
            raise _refused(f"{path}:{number}: {name}: {trouble}", "have the daemon read that secret from a file")
        found[name] = value
    return found


def token(path: Path) -> bytes:
    """Return the token of a file; raise PortfleetError (exit 2) if others may read it, or if it could be guessed."""
    found = _text(path).strip()
    if not _TOKEN.fullmatch(found):
        words = f"{path} is not one line of 24 to 200 characters without blanks"
        raise _refused(words, f"(umask 077; head -c 24 /dev/urandom | base64 > {path})")
    return found.encode()


def _text(path: Path) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise _refused(f"{path} is no regular file", f"write one: install -m 600 /dev/null {path}")
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o077 or status.st_uid not in (0, os.geteuid()):
                words = f"{path} may be read by other users (mode {mode:04o}, uid {status.st_uid})"
                raise _refused(words, f"chown {os.geteuid()} {path} && chmod 600 {path}")
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise _refused(f"{path} cannot be read: {error.strerror}", f"install -m 600 /dev/null {path}") from None
    if len(data) > _LARGEST:
        raise _refused(f"{path} is longer than {_LARGEST:,} bytes", "no environment and no token is; shorten it")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _refused(f"{path} is not a text of UTF-8", "write it anew") from None


def _refused(message: str, hint: str) -> PortfleetError:
    return PortfleetError(message, hint=hint, code=Exit.USAGE)
