"""Whether an instance listens where its clients come by: the sockets of its processes, before it is asked anything."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from portfleet.linux import processes
from portfleet.linux.sockdiag import Listener


def listening_fault(
    port: int, families: Iterable[int], found: Iterable[Listener], *, inside: bool = False
) -> tuple[str, bool]:
    """Return what is wrong with a process's own listeners on ``port`` ("" for nothing), and whether waiting may help.

    Connections keep the address that was dialled, which may be any of this box's, so only wildcard listeners of every
    family that clients come by are of use; one on 127.0.0.1 answers local probes while all clients are refused. But if
    it is reached from ``inside`` this box, over 127.0.0.1, that is enough.
    """
    found = list(found)
    if not found:
        return f"does not listen on port {port} yet", True
    reached: set[int] = set()
    for listener in found:
        if listener.wildcard or (inside and listener.address == "127.0.0.1"):
            reached |= listener.families
    if not reached and inside:
        return f"listens on {found[0]} only; the data plane connects to 127.0.0.1", False
    if not reached:
        return f"listens on {found[0]} only; connections keep the address that was dialled", False
    if lacking := set(families) - reached:
        family = "IPv4" if 4 in lacking else "IPv6"
        return f"listens on {', '.join(map(str, found))} only; {family} clients are sent to it too", False
    return "", False


def own_listeners(pid: int, there: Collection[Listener]) -> list[Listener]:
    """Return those of the listeners ``there`` that belong to the process tree of ``pid``."""
    mine = processes.owned(processes.tree(pid), {listener.inode for listener in there}) if there else set()
    return [listener for listener in there if listener.inode in mine]
