"""script/isolated: whatever way a command ends, nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from support.sandbox import wait_for

ISOLATED = str(Path(__file__).parents[2] / "script/isolated")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a shell script isolated and wait until it has said "up"; all of it is ended after the test."""
    with ExitStack() as stack:

        def started(script: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [ISOLATED, "sh", "-c", script],
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "TMPDIR": str(tmp_path)},
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            unshare = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
            stack.callback(end, os.pidfd_open(int(unshare)))
            return process

        yield started


def end(pidfd: int) -> None:
    """Kill the process, if it still is there; a pidfd never means another process."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def in_our_namespace(marker: str) -> list[str]:
    """Return the processes whose command line has ``marker``, as /proc shows them to us."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        if marker in line and int(process.name) != os.getpid():
            found.append(line)
    return found


def test_the_exit_status_is_the_commands() -> None:
    assert subprocess.run([ISOLATED, "sh", "-c", "exit 7"], check=False).returncode == 7
    assert subprocess.run([ISOLATED, "sh", "-c", "kill -9 $$"], check=False).returncode == 137
    assert subprocess.run([ISOLATED, "/nonexistent"], check=False).returncode == 127
    assert subprocess.run([ISOLATED], check=False).returncode == 2


@pytest.mark.long
def test_a_command_that_ends_at_once_is_noticed() -> None:
    for _ in range(30):
        assert subprocess.run([ISOLATED, "/bin/false"], check=False, timeout=20).returncode == 1


def test_the_command_has_a_network_and_processes_of_its_own() -> None:
    script = "ls /sys/class/net >/dev/null; cat /proc/net/dev | grep -c : ; ls -d /proc/[0-9]* | wc -l; id -u"
    said = subprocess.run([ISOLATED, "sh", "-c", script], check=True, capture_output=True, text=True).stdout
    interfaces, processes, user = said.split()
    assert (interfaces, user) == ("1", "0")
    assert int(processes) < 8


def test_its_temporary_folder_goes_with_it(tmp_path: Path) -> None:
    subprocess.run(
        [ISOLATED, "sh", "-c", 'echo x > "$TMPDIR/file"'], check=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert list(tmp_path.iterdir()) == []


def test_orphans_are_reaped() -> None:
    script = (
        "cd $TMPDIR; touch pids; for i in 1 2 3; do (sh -c 'echo $$ >> pids' &) ; done; "
        "until [ $(wc -l < pids) = 3 ]; do :; done; "
        "for pid in $(cat pids); do while [ -e /proc/$pid ]; do :; done; done"  # a zombie has a /proc entry too
    )
    assert subprocess.run([ISOLATED, "sh", "-c", script], check=False, timeout=20).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_it_lets_the_command_end(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = start('trap "echo tidied; exit 5" TERM; echo up; while :; do sleep 0.05; done')
    process.send_signal(number)

    said, _ = process.communicate(timeout=20)

    assert (said, process.returncode) == ("tidied\n", 5)
    assert list(tmp_path.iterdir()) == []


def test_killed_it_takes_everything_along(start: Callable[[str], subprocess.Popen[str]]) -> None:
    marker = f"sleep 98765.{os.getpid()}"
    process = start(f"setsid {marker} & echo up; {marker}")
    wait_for("both run", lambda: len(in_our_namespace(marker)) >= 2)

    process.kill()
    process.wait()

    wait_for("nothing runs", lambda: not in_our_namespace(marker))
