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
from dataclasses import dataclass

from portfleet.core.boxes import destination
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.printable import printable

#: Never asks for a password: it would wait for an answer that no script gives. A box that is gone is noticed within
#: 20 s. What follows is a box, whatever it begins with.
SSH = "ssh -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=5 -o ServerAliveCountMax=3 --"
#: Bytes that a command may print: what `export` prints of a thousand services is half of it.
MOST = 1 << 27
#: Exit status of ssh itself when it does not reach the box (ssh(1)).
_UNREACHED = 255


@dataclass(frozen=True)
class Said:
    """What a command on another box ended with: exit status, and what it printed on stdout and stderr."""

    code: int
    out: str
    errors: str


def command(box: str, words: Sequence[str]) -> list[str]:
    """Return the argument list that runs ``words`` on ``box`` (what ssh understands: HOST, USER@HOST, an alias).

    PORTFLEET_SSH is the command used instead of `SSH`; it is given the box and one shell command line, as ssh is.
    """
    return [*shlex.split(os.environ.get("PORTFLEET_SSH") or SSH), destination(box), shlex.join(words)]


def run(box: str, words: Sequence[str], *, seconds: float = 20.0) -> str:
    """Return what ``words`` print on ``box``; raise PortfleetError with what they say on stderr if they fail."""
    said = ask(box, words, seconds=seconds)
    if said.code:
        raise _unasked(box, words, first_words(said))
    return said.out


def ask(box: str, words: Sequence[str], *, seconds: float, most: int | None = None) -> Said:
    """Return what ``words`` came to on ``box``; ``most``: bytes that they may print, `MOST` if it is left out.

    Raises PortfleetError if that cannot be told: the box is not reached, or they have not ended within ``seconds``
    (exit 4), which does not end them there.
    """
    try:
        with subprocess.Popen(
            command(box, words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as asking:
            try:
                out, errors = _heard(asking, seconds, most or MOST)
                asking.wait(1.0)
            finally:
                asking.kill()
    except (OSError, subprocess.TimeoutExpired) as error:
        late = isinstance(error, (TimeoutError, subprocess.TimeoutExpired))
        raise _unasked(box, words, str(error), code=Exit.TIMEOUT if late else Exit.FAILED) from None
    said = Said(asking.returncode, out.decode(errors="replace"), errors.decode(errors="replace"))
    if said.code == _UNREACHED:
        raise _unasked(box, words, first_words(Said(said.code, "", "\n".join(of_others(said.errors)))))
    return said


def of_others(errors: str) -> list[str]:
    """Return the lines of stderr that ssh or a shell wrote: what a verb said before it was cut off is no reason."""
    return [line for line in errors.splitlines() if line.strip() and not line.startswith("portfleet: ")]


def first_words(said: Said) -> str:
    """Return the first line that a command said on stderr, otherwise its exit status; it prints."""
    return printable((said.errors.strip().splitlines() or [f"exit status {said.code}"])[0])


def _unasked(box: str, words: Sequence[str], why: str, *, code: Exit = Exit.FAILED) -> PortfleetError:
    return PortfleetError(f"{box} cannot be asked: {why}", hint=f"try: {shlex.join(command(box, words))}", code=code)


def _heard(asking: subprocess.Popen[bytes], seconds: float, most: int) -> tuple[bytes, bytes]:
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
                if len(heard[key.fd]) > most:
                    raise OSError(f"it prints more than {most:,} bytes")
    out, errors = map(bytes, heard.values())
    return out, errors
