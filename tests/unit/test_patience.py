"""A process that works, or waits for a processor, is waited for longer than one that does nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portfleet.linux.patience import Patience, worked
from portfleet.supervise.supervisor import Supervisor, Unanswered
from support.sandbox import wait_for

_BUSY, _IDLE = "print('up', flush=True)\nwhile True: pass", "print('up', flush=True)\nimport sys; sys.stdin.read()"
_ANSWER = b"<methodResponse><params><param><value><int>1</int></value></param></params></methodResponse>"


@contextmanager
def running(script: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            yield process.pid
        finally:
            process.kill()


def works(pid: int, seconds: float) -> None:
    """Wait until the process has worked so long."""
    before = worked(pid)
    assert before is not None
    wait_for("it works", lambda: (worked(pid) or 0) - before >= seconds)


def test_a_process_that_works_is_waited_for_and_one_that_does_nothing_is_not() -> None:
    with running(_BUSY) as busy, running(_IDLE) as idle:
        first, second = Patience(1, busy), Patience(1, idle)
        works(busy, 0.2)
        assert first.goes_on()
        assert not second.goes_on()


def test_what_works_for_ever_is_given_up_after_ten_times_as_long() -> None:
    now = [0.0]
    with running(_BUSY) as busy:
        patience = Patience(1, busy, clock=lambda: now[0])
        for now[0] in (0.1, 0.2):
            works(busy, 0.2)
            assert patience.goes_on()
        now[0] = 10.1
        works(busy, 10.1 / 2)
        assert not patience.goes_on()


@pytest.mark.parametrize("pid", [None, 1 << 23])
def test_a_process_that_cannot_be_seen_is_not_waited_for_longer(pid: int | None) -> None:
    assert worked(pid) is None and not Patience(1, pid).goes_on()


@pytest.mark.parametrize("pid", [True, False], ids=["works", "is not known"])
def test_supervisord_has_as_long_as_it_waits_for_a_processor(pid: bool, tmp_path: Path) -> None:
    """Its socket is answered after three times the patience with one that hangs."""
    with running(_BUSY) as busy, socket.socket(socket.AF_UNIX) as listener:
        if pid:
            (tmp_path / "supervisord.pid").write_text(f"{busy}\n")
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                works(busy, 0.6)
                try:
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/xml\r\n\r\n" + _ANSWER)
                except BrokenPipeError:
                    assert not pid

        answering = threading.Thread(target=answer)
        answering.start()
        try:
            if pid:
                assert Supervisor(tmp_path / "s", seconds=0.2).pid() == 1
            else:
                with pytest.raises(Unanswered, match=r"within 0\.2 s"):
                    Supervisor(tmp_path / "s", seconds=0.2).pid()
        finally:
            answering.join(30)
