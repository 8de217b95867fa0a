"""Makes a listening socket deaf to new handshakes, while those under way are finished.

Looking whether anything waits and closing the listener are two steps, and a client whose handshake ends between
them believes it is connected and is reset. A classic BPF filter on the listener (SO_ATTACH_FILTER, socket(7)) that
drops SYN without ACK closes the gap: the kernel runs it on the TCP header of what is addressed to a listener or to one
of its unfinished handshakes, so a handshake begun before can end and none begins. The client whose SYN was dropped
sends it again after 1 s. Accepted sockets inherit the filter; an established connection has no use for a SYN.
"""

from __future__ import annotations

import ctypes
import socket
import struct

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h; not in Python's socket module
FLAGS_OFFSET, SYN, ACK = 13, 0x02, 0x10  # in the TCP header, RFC 9293 §3.1
# struct sock_filter: code, jump if true, jump if false, operand
PROGRAM = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, FLAGS_OFFSET),  # load byte
        (0x54, 0, 0, SYN | ACK),  # and
        (0x15, 0, 1, SYN),  # equal?
        (0x06, 0, 0, 0),  # then drop
        (0x06, 0, 0, 0xFFFFFFFF),  # else keep all of it
    )
)


def ignore_new(listener: socket.socket) -> None:
    """Let no further handshake begin; raises OSError where the kernel has no socket filters."""
    code = ctypes.create_string_buffer(PROGRAM, len(PROGRAM))
    program = struct.pack("HP", len(PROGRAM) // 8, ctypes.addressof(code))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def hear_again(listener: socket.socket) -> None:
    """Undo `ignore_new`."""
    listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
