"""Running a command on another box: over ssh, or what the operator has in its place.

What comes from there is another box's word: it has a deadline and a length, and is text whatever its bytes are.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import time
from collections.abc import Sequence

from portfleet.core.errors import PortfleetError
from portfleet.core.printable import printable

#: Never asks for a password: it would wait for an answer that no script gives.
SSH = "ssh -o BatchMode=yes -o ConnectTimeout=5"
#: Bytes that a command may print: what `export` prints of a thousand services is half of it.
MOST = 1 << 27


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
        with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
            try:
                out, errors = _heard(asking, seconds)
                asking.wait(1.0)
            finally:
                asking.kill()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PortfleetError(f"{box} cannot be asked: {error}", hint=f"try: {shlex.join(line)}") from None
    if asking.returncode:
        said = errors.decode(errors="replace").strip().splitlines() or [f"exit status {asking.returncode}"]
        raise PortfleetError(f"{box} cannot be asked: {printable(said[0])}", hint=f"try: {shlex.join(line)}")
    return out.decode(errors="replace")


def _heard(asking: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, bytes]:
    """Return all that a process prints, and says on stderr; raise OSError if it is late, or prints without end."""
    deadline, streams = time.monotonic() + seconds, [stream for stream in (asking.stdout, asking.stderr) if stream]
    heard = {stream.fileno(): bytearray() for stream in streams}
    with selectors.DefaultSelector() as selector:
        for descriptor in heard:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError(f"it has not ended after {seconds:g} s")
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                heard[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
                if len(heard[key.fd]) > MOST:
                    raise OSError(f"it prints more than {MOST:,} bytes")
    out, errors = map(bytes, heard.values())
    return out, errors
