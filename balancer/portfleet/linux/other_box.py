"""Running a command on another box: over ssh, or what the operator has in its place."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence

from portfleet.core.errors import PortfleetError

#: Never asks for a password: it would wait for an answer that no script gives.
SSH = "ssh -o BatchMode=yes -o ConnectTimeout=5"


def command(box: str, words: Sequence[str]) -> list[str]:
    """Return the argument list that runs ``words`` on ``box`` (what ssh understands: HOST, USER@HOST, an alias).

    PORTFLEET_SSH is the command used instead of `SSH`; it is given the box and one shell command line, as ssh is.
    """
    if box.startswith("-"):
        raise PortfleetError(f"{box!r} is no name of a box", hint="give HOST or USER@HOST")
    return [*shlex.split(os.environ.get("PORTFLEET_SSH") or SSH), box, shlex.join(words)]


def run(box: str, words: Sequence[str], *, seconds: float = 20.0) -> str:
    """Return what ``words`` print on ``box``; raise PortfleetError with what they say on stderr if they fail."""
    line = command(box, words)
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PortfleetError(f"{box} cannot be asked: {error}", hint=f"try: {shlex.join(line)}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise PortfleetError(f"{box} cannot be asked: {said[0]}", hint=f"try: {shlex.join(line)}")
    return done.stdout
