"""Says who serves already what clients of the fleet dial, before their new connections go to the fleet."""

from __future__ import annotations

from collections.abc import Iterable

from portfleet.core.model import Listen
from portfleet.core.printable import quantity
from portfleet.linux import processes, sockdiag
from portfleet.linux.reserve import meets


def claims(listens: Iterable[Listen]) -> tuple[str, ...]:
    """Return a line for each of ``listens`` that another process listens on. Raises OSError if the kernel refuses.

    Its established connections stay with it: only connections that begin with a SYN are translated.
    """
    listeners = sockdiag.listeners()
    pairs = [(listen, listener) for listen in listens for listener in listeners if meets(listen, listener)]
    found = dict.fromkeys((listen, processes.owner_of(listener.inode)) for listen, listener in pairs)
    counts = sockdiag.established() if found else {}
    return tuple(
        f"{owner} listens on {listen} with {quantity(counts[listen.port], 'connection')}, left as it is; "
        "new connections will go to the fleet"
        for listen, owner in found
    )
