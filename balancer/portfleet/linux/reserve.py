"""A port reserved for what has no socket of its own there: a socket that is bound and does not listen.

The kernel translates what clients dial, so no process needs the service's port, and two claimants of it would not
notice each other. A bound socket without SO_REUSEADDR has every other bind of the port fail with EADDRINUSE, and has no
effect on packets. It waits for nothing, is in no list of listeners, and goes with its process.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterable

from portfleet.core.model import Listen
from portfleet.linux import sockdiag

#: linux/in.h, linux/in6.h; the module socket of Python 3.11 has no names for them.
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78


def reserve(listen: Listen) -> list[socket.socket]:
    """Return the sockets that reserve ``listen``, one or two; an address need not be on this box yet.

    Raise OSError (EADDRINUSE) if another process has the port; EACCES below 1024 without the right to it.
    """
    if listen.families == (4, 6):
        try:
            return [_bound(socket.AF_INET6, "::", listen.port, v6only=False)]
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # IPv6 is switched off
                raise
        return [_bound(socket.AF_INET, "0.0.0.0", listen.port)]
    if 6 in listen.families:
        return [_bound(socket.AF_INET6, listen.address or "::", listen.port)]
    return [_bound(socket.AF_INET, listen.address or "0.0.0.0", listen.port)]


def await_free(listens: Iterable[Listen], *, seconds: float = 2.0) -> None:
    """Wait until another process can bind ``listens`` again, unless one listens there already."""
    deadline = time.monotonic() + seconds
    for listen in listens:
        while not _free(listen) and time.monotonic() < deadline:
            time.sleep(0.01)


def listener_at(listen: Listen) -> sockdiag.Listener | None:
    """Return who listens where clients dial ``listen``, so that it would get them without us."""
    return next((found for found in sockdiag.listeners() if meets(listen, found)), None)


def meets(listen: Listen, listener: sockdiag.Listener) -> bool:
    """Return whether a client of ``listen`` would, without our rules, reach ``listener``."""
    if listen.port != listener.port or not listener.families & set(listen.families):
        return False
    return listener.wildcard or listen.address in (None, listener.address)


def _free(listen: Listen) -> bool:
    try:
        for one in reserve(listen):
            one.close()
    except OSError as error:
        return error.errno != errno.EADDRINUSE or listener_at(listen) is not None
    return True


def _bound(family: socket.AddressFamily, address: str, port: int, *, v6only: bool = True) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made
