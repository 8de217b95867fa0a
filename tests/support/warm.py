"""Runs the tool and the clients in boxes by fork, from a process that has imported all they need.

An interpreter that starts and imports the tool takes 150 ms of processor time, and the suite runs the tool two thousand
times. Here the work is a fork (10 ms): the same code, with the arguments, environment, streams and namespaces of the
caller's choice, in a process of its own that can be killed at any point. What is started in other ways (daemons,
supervisord, the watcher, whoever uses `Box.run` and `Box.popen`) has interpreters of its own, as in real life.

Each test process has one such server, a child that ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import FrameType

from support.sandbox import Box, BoxError

_TESTS = Path(__file__).parents[1]
#: linux/sched.h: mount, UTS, IPC, PID and network namespace.
_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
_LONGEST_REQUEST = 1 << 18  # bytes
_ORDINARY = 65534
#: linux/prctl.h and linux/capability.h.
_SET_DUMPABLE, _DROP_FROM_BOUNDING_SET, _NO_NEW_PRIVS, _CAPABILITY_VERSION_3 = 4, 24, 38, 0x20080522


def run(
    box: Box,
    module: str,
    *words: str,
    check: bool = True,
    text: str = "",
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    ordinary: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Call ``main()`` of ``module`` in the box with ``words`` as its arguments and ``text`` on its standard input.

    With ``ordinary`` it is uid 65534's, without any right of root's, now and later.
    Raises BoxError on a non-zero exit when ``check``, and TimeoutExpired, as `Box.run` does.
    """
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(os.fdopen(os.memfd_create(name), "w+b")) for name in ("in", "out", "err")]
        streams[0].write(text.encode())
        streams[0].seek(0)
        ends, says = os.pipe()
        ended = stack.enter_context(os.fdopen(ends, "rb"))
        request = {"box": box.pid, "module": module, "words": words, "timeout": timeout, "ordinary": ordinary}
        request["environment"] = {**os.environ, **(env or {})}
        try:
            _server().send(request, [*(stream.fileno() for stream in streams), says])
        finally:
            os.close(says)
        answer = ended.read()
        output, errors = (os.pread(stream.fileno(), 1 << 24, 0).decode() for stream in streams[1:])
    code = int(answer or b"1")
    if code == -signal.SIGALRM:
        raise subprocess.TimeoutExpired([module, *words], timeout, output, errors)
    if check and code:
        raise BoxError(f"{box.name}: {module} {' '.join(words)}: exit {code}\n{output}{errors}")
    return subprocess.CompletedProcess([module, *words], code, output, errors)


class _Server:
    """The process that forks; requests are independent of one another."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            script = f"from support.warm import serve; serve({theirs.fileno()})"
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")])}
            self._process = subprocess.Popen(
                [sys.executable, "-c", script], pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
        self._lock = threading.Lock()

    def send(self, request: Mapping[str, object], descriptors: Sequence[int]) -> None:
        """Ask for one run; its exit status, as text, comes on the last descriptor."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)


@cache
def _server() -> _Server:
    return _Server()


def serve(descriptor: int) -> None:
    """Import everything, then fork for each request until the other end is gone."""
    import portfleet

    for module in pkgutil.walk_packages(portfleet.__path__, "portfleet."):
        importlib.import_module(module.name)
    for name in ("asyncio", "jinja2", "support.clients"):
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(fileno=descriptor) as requests:
        while True:
            data, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 4)
            if not data:
                return
            _reap()
            if os.fork() == 0:
                requests.close()
                _answer(json.loads(data), descriptors)
            for each in descriptors:
                os.close(each)


def _reap() -> None:
    """Take in those that have ended, so that their processor time counts as ours."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _answer(request: dict[str, object], descriptors: list[int]) -> None:
    """Enter the box, have a child do the work there (PID 1's namespace holds children only), and tell its end."""
    *streams, says = descriptors
    box, timeout = int(str(request["box"])), float(str(request["timeout"]))
    status = -signal.SIGKILL
    try:
        handle = os.pidfd_open(box)
        if ctypes.CDLL(None, use_errno=True).setns(handle, _NAMESPACES):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(handle)
        child = os.fork()
        if child == 0:
            os.close(says)
            _work(request, streams)

        def too_late(_number: int, _frame: FrameType | None) -> None:
            os.kill(child, signal.SIGALRM)

        signal.signal(signal.SIGALRM, too_late)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except OSError:
        os.write(streams[2], traceback.format_exc().encode())
    finally:
        os.write(says, str(status).encode())
        os._exit(0)


def _work(request: dict[str, object], streams: list[int]) -> None:
    """Be the program: its streams, environment and arguments, then its ``main``."""
    code: object = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        if request["ordinary"]:
            _give_up_rights()
        environment, words = request["environment"], request["words"]
        assert isinstance(environment, dict) and isinstance(words, list)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [str(request["module"]), *words]
        code = importlib.import_module(str(request["module"])).main()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:  # noqa: BLE001 (what an interpreter does with it)
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def _give_up_rights() -> None:
    """Become an ordinary user for good, as ``setpriv`` makes one (`fleet_box.ORDINARY`)."""
    libc = ctypes.CDLL(None, use_errno=True)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        _demand(libc.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0))
    os.setgroups([])
    os.setresgid(_ORDINARY, _ORDINARY, _ORDINARY)
    os.setresuid(_ORDINARY, _ORDINARY, _ORDINARY)
    _demand(libc.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()))
    _demand(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    # A process that has changed its user may not read its own /proc until it executes a program.
    _demand(libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0))


def _demand(answer: int) -> None:
    if answer:
        raise OSError(ctypes.get_errno(), "cannot give up rights")
