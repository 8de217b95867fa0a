"""Run a command as on a kernel without IPv6, `without_ipv6.py COMMAND …`: socket(AF_INET6) fails with EAFNOSUPPORT.

A seccomp filter (seccomp(2), linux/filter.h), which every child has too. Needs root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys

_SET_SECCOMP, _FILTER = 22, 2  # prctl(2)
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _FIRST_ARGUMENT = 0, 16  # struct seccomp_data
_SOCKET = {"x86_64": 41, "aarch64": 198}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main() -> None:
    """Set the filter and become the command."""
    code = [
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, _SOCKET[os.uname().machine]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, int(socket.AF_INET6)),
        (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]
    packed = b"".join(struct.pack("HBBI", *one) for one in code)
    program = _Program(len(code), packed)
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 (becoming the command is what it is for)


if __name__ == "__main__":
    main()
