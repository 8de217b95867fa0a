"""Runs a command once for each line of standard input, which it gets on its own; one at a time, with a time-out.

The watcher starts it as ``python -m portfleet.watch.event_runner COMMAND…``. Started by root, it first becomes the user
nobody. For each command it prints a line: why it failed, or nothing. It ends with the watcher, and at once on SIGTERM;
its command is ended with it. It looks for SIGTERM only where it waits: an exception that a signal handler raises while
a command is being started would leave that command behind.
"""

from __future__ import annotations

import os
import pwd
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

#: Seconds that a command may take; and bytes of what it says on standard error that are passed on.
SECONDS, _SAID = 10.0, 200
#: Bytes of standard input that are taken at a time. Little, for what is taken makes room in the pipe for more to wait.
_READ = 4096
#: What a command finds of the watcher's environment.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ")


def main() -> None:
    """Run until standard input ends or the parent has."""
    parent, words = os.getppid(), sys.argv[1:]
    end = _terminated()
    trouble = _become_nobody()
    for line in _lines(end):
        if os.getppid() != parent:
            break
        print(_one_line(trouble or run(words, line, end=end)), flush=True)


def run(words: Sequence[str], line: bytes, *, seconds: float = SECONDS, end: int | None = None) -> str:
    """Run a command with ``line`` as its standard input; return why it failed, or "".

    One that takes longer than ``seconds`` gets SIGKILL, with its process group. So does one that runs when there is
    something to read from the descriptor ``end``; SystemExit is raised then.
    """
    standard_input = os.memfd_create("event")  # which, unlike a pipe, no command has to read
    try:
        os.write(standard_input, line)
        os.lseek(standard_input, 0, os.SEEK_SET)
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        process = subprocess.Popen(
            words, stdin=standard_input, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", env=environment,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return f"{error.filename or words[0]}: {error.strerror}"
    finally:
        os.close(standard_input)
    try:
        said = _hear(process, seconds, () if end is None else (end,))
        if process.returncode is None:
            return f"took longer than {seconds:g} s and was killed"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    status = process.returncode
    how = f"exit status {status}" if status > 0 else f"ended by {signal.Signals(-status).name}" if status else ""
    return f"{how}: {said.decode(errors='replace').strip()}" if how and said.strip() else how


def _hear(process: subprocess.Popen[bytes], seconds: float, ends: Sequence[int]) -> bytes:
    """Wait for the end of a command, for ``seconds`` at most; return the beginning of what it says of errors.

    Its end is what counts: a process that it leaves behind may hold the pipe for ever. SystemExit is raised when one of
    ``ends`` can be read.
    """
    deadline, said = time.monotonic() + seconds, b""
    ended = os.pidfd_open(process.pid)
    with process.stderr as errors:  # type: ignore[union-attr] # a pipe
        waited = [ended, errors.fileno(), *ends]
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(waited, [], [], left)
            if errors.fileno() in ready:
                data = os.read(errors.fileno(), 65536)
                said = (said + data)[:_SAID]
                if not data:
                    waited.remove(errors.fileno())
            if ended in ready:
                process.wait()
                break
            if not {*ends}.isdisjoint(ready):
                sys.exit()
    os.close(ended)
    return said


def _terminated() -> int:
    """Have SIGTERM interrupt nothing; return a descriptor that can be read once it has come."""
    end, note = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(note)
    signal.signal(signal.SIGTERM, lambda *_: None)
    return end


def _lines(end: int) -> Iterator[bytes]:
    """Yield the lines of standard input until it ends or ``end`` can be read."""
    rest = b""
    while end not in select.select([0, end], [], [])[0] and (data := os.read(0, _READ)):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line + b"\n"
            if select.select([end], [], [], 0)[0]:
                return


def _become_nobody() -> str:
    """Give up root's rights, if this process has them; return why it cannot, or ""."""
    if os.geteuid() == 0:
        try:
            nobody = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
        except (OSError, KeyError) as error:
            return f"cannot become the user nobody: {error}"
    return ""


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


if __name__ == "__main__":
    main()
