"""A network interface whose frames this process reads and writes (tun(4)): what the kernel sends there waits here.

It is gone with the process. /dev/net/tun and CAP_NET_ADMIN are needed.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

_DEVICE = "/dev/net/tun"
_SET_INTERFACE, _GET_FLAGS, _SET_FLAGS, _GET_ADDRESS = 0x400454CA, 0x8913, 0x8914, 0x8927
_TAP, _NO_INFORMATION, _UP = 2, 0x1000, 1
_REQUEST = struct.Struct("=16sH22x")  # struct ifreq of linux/if.h
#: Bytes of the longest frame: one of IPv4 or IPv6 that was put together from several.
_LONGEST = 1 << 17
_TARGET = 6  # the first bytes of a frame say to which hardware address it goes


class Tap:
    """The interface ``name``, up; raise OSError: EBUSY if another process has it, ENOENT without /dev/net/tun."""

    def __init__(self, name: str) -> None:
        self._file = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self._file, _SET_INTERFACE, _REQUEST.pack(name.encode(), _TAP | _NO_INFORMATION))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                flags = _REQUEST.unpack(fcntl.ioctl(asking, _GET_FLAGS, _REQUEST.pack(name.encode(), 0)))[1]
                fcntl.ioctl(asking, _SET_FLAGS, _REQUEST.pack(name.encode(), flags | _UP))
                found = fcntl.ioctl(asking, _GET_ADDRESS, _REQUEST.pack(name.encode(), 0))
        except OSError:
            os.close(self._file)
            raise
        self._address = found[18 : 18 + _TARGET]

    def read(self) -> list[bytes]:
        """Return the frames that were sent to the interface since the last call."""
        found = []
        try:
            while True:
                found.append(os.read(self._file, _LONGEST))
        except BlockingIOError:
            return found

    def write(self, frame: bytes) -> None:
        """Have a frame come in by the interface, addressed to it."""
        os.write(self._file, self._address + frame[_TARGET:])
