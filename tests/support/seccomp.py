"""Run a command where the kernel refuses something: `seccomp.py WITHOUT COMMAND …`.

WITHOUT is `ipv6` (as on a kernel without it), `realtime` (as below RestrictRealtime= of systemd, which refuses flags of
a policy as well) or `scheduling` (nothing about priorities can be set). Every child of COMMAND has the filter too.
Sources: seccomp(2), linux/filter.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Collection

_SET_SECCOMP, _FILTER, _NO_NEW_PRIVILEGES = 22, 2, 38  # prctl(2); without the last it takes root
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARGUMENTS = 0, 16  # struct seccomp_data
#: asm/unistd.h.
_CALLS = {
    "x86_64": {"socket": 41, "sched_setscheduler": 144, "sched_setattr": 314, "setpriority": 141},
    "aarch64": {"socket": 198, "sched_setscheduler": 119, "sched_setattr": 274, "setpriority": 140},
}[os.uname().machine]
Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refused(call: str, error: int) -> list[Instruction]:
    """Return what has ``call`` fail with ``error``."""
    return [(_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 1, _CALLS[call]), (_RETURN, 0, 0, _ERRNO | error)]


def judged(call: str, argument: int, error: int, values: Collection[int], *, allowed: bool) -> list[Instruction]:
    """Return what has ``call`` fail with ``error`` by whether ``argument`` is one of ``values``, or none of them."""
    listed, others = (_ALLOW, _ERRNO | error) if allowed else (_ERRNO | error, _ALLOW)
    tests = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    body = [
        (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),  # its lower half
        *tests,
        (_RETURN, 0, 0, others),
        (_RETURN, 0, 0, listed),
    ]
    return [(_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, len(body), _CALLS[call]), *body]


def filtered(without: str) -> list[Instruction]:
    """Return the filter of that name, to be followed by what allows the rest."""
    if without == "ipv6":
        return judged("socket", 0, errno.EAFNOSUPPORT, [socket.AF_INET6], allowed=False)
    if without == "realtime":
        policies = [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE]
        return judged("sched_setscheduler", 1, errno.EPERM, policies, allowed=True)
    calls = ("sched_setscheduler", "sched_setattr", "setpriority")
    return [step for call in calls for step in refused(call, errno.EPERM)]


def main() -> None:
    """Set the filter and run the command below it."""
    code = [*filtered(sys.argv[1]), (_RETURN, 0, 0, _ALLOW)]
    packed = b"".join(struct.pack("HBBI", *one) for one in code)
    program = _Program(len(code), packed)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    sys.exit(subprocess.run(sys.argv[2:], check=False).returncode)


if __name__ == "__main__":
    main()
