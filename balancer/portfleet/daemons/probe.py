"""Asks one instance whether it serves: its listeners, then its control socket or an exchange through its port."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from portfleet.core.model import Listen, Probe
from portfleet.daemons import control
from portfleet.linux import processes
from portfleet.linux.sockdiag import Listener


def listening_fault(port: int, families: Iterable[int], found: Iterable[Listener]) -> tuple[str, bool]:
    """Return what is wrong with a process's own listeners on ``port`` ("" for nothing), and whether waiting may help.

    Connections keep the address that was dialled, which may be any of this box's, so only wildcard listeners of every
    family that clients come by are of use; one on 127.0.0.1 answers local probes while all clients are refused.
    """
    found = list(found)
    if not found:
        return f"does not listen on port {port} yet", True
    reached: set[int] = set()
    for listener in found:
        if listener.wildcard:
            reached |= listener.families
    if not reached:
        return f"listens on {found[0]} only; connections keep the address that was dialled", False
    if lacking := set(families) - reached:
        family = "IPv4" if 4 in lacking else "IPv6"
        return f"listens on {', '.join(map(str, found))} only; {family} clients are sent to it too", False
    return "", False


def own_listeners(pid: int, port: int, found: Iterable[Listener]) -> list[Listener]:
    """Return the listeners on ``port`` that belong to the process tree of ``pid``."""
    there = [listener for listener in found if listener.port == port]
    mine = processes.owned(processes.tree(pid), {listener.inode for listener in there}) if there else set()
    return [listener for listener in there if listener.inode in mine]


def control_status(path: Path, *, seconds: float) -> dict[str, Any] | str:
    """Ask our daemon's control socket for its status; the reason as text where it does not answer."""
    try:
        return control.ask(path, "status", seconds=seconds)
    except control.ControlError as error:
        return str(error)


def exchange(address: Listen, probe: Probe) -> str:
    """Connect, send and expect as configured; give "" or what went wrong."""
    host = address.address or ("127.0.0.1" if 4 in address.families else "::1")
    try:
        with socket.create_connection((host, address.port), timeout=probe.timeout) as connection:
            if probe.send is None:
                return ""
            connection.sendall(probe.send.encode())
            if probe.expect is None:
                return ""
            got, expected = b"", probe.expect.encode()
            while expected not in got and len(got) < 65536:
                if not (part := connection.recv(4096)):
                    return f"closed the connection after {got[:80]!r}, expected {expected!r}"
                got += part
            return "" if expected in got else f"answered {got[:80]!r}, expected {expected!r}"
    except OSError as error:
        return f"the probe of port {address.port} failed: {error}"
