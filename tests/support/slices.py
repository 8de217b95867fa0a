"""How long the time slices are that processes ask for: `python slices.py PID…` prints those in seconds, a line each."""

from __future__ import annotations

import ctypes
import os
import struct
import sys

#: sched_getattr(2) by machine (asm/unistd.h), and struct sched_attr.
_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def slice_of(pid: int) -> float:
    """Return it in seconds; 0.0 if the kernel does not tell (before Linux 6.12), or the policy has none."""
    found = ctypes.create_string_buffer(_ATTRIBUTES.size)
    call = _SCHED_GETATTR[os.uname().machine]
    if ctypes.CDLL(None, use_errno=True).syscall(call, pid, found, _ATTRIBUTES.size, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return float(_ATTRIBUTES.unpack(found.raw)[5]) / 1e9


if __name__ == "__main__":
    for pid in sys.argv[1:]:
        print(slice_of(int(pid)))
