"""Connecting to unix sockets whose directory may belong to a user who must not be trusted."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct


def connect(path: str) -> socket.socket:
    """Return a non-blocking stream socket connected to the socket at ``path`` itself: a link there is not followed.

    Raises OSError: ENOENT or ECONNREFUSED if no process listens there, ELOOP for a link, EAGAIN if its queue is full.
    """
    # The path is looked up once: what O_PATH has opened is what is connected to (open(2), proc_pid_fd(5)).
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if stat.S_ISLNK(os.fstat(place).st_mode):
            raise OSError(errno.ELOOP, "a link, which is not followed")
        connection.connect(f"/proc/self/fd/{place}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(place)
    return connection


def is_absent(path: str) -> bool:
    """Return whether there is nothing of that name; False if that cannot be seen."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def peer(connection: socket.socket) -> int:
    """Return the process that listened when ``connection`` was made (SO_PEERCRED, unix(7)); 0 for one out of sight."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[0])
