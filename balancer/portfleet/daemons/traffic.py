"""Connects and bytes of daemons that do not count them, by what the kernel knows of their connections (sock_diag)."""

from __future__ import annotations

from dataclasses import dataclass, field

from portfleet.linux import sockdiag


@dataclass
class _Port:
    """One port: its connections by the kernel's names with their bytes at the last look, and sums since the first."""

    known: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    connects: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True)
class Traffic:
    """Sums since the first look at a port: connections made, and bytes from and to clients.

    A connection that begins and ends between two looks is not seen, and of one that ends the bytes since the last look
    are not: both are the least that it was.
    """

    connects: int
    bytes_in: int
    bytes_out: int


class TrafficMeter:
    """Looks at ports of this box; what was there at the first look counts as old."""

    def __init__(self) -> None:
        self._ports: dict[int, _Port] = {}

    def look(self, port: int) -> Traffic:
        """Return the sums of a port now. Raise OSError if the kernel refuses."""
        first = port not in self._ports
        seen = self._ports.setdefault(port, _Port())
        now = {name: (received, sent) for name, received, sent in sockdiag.traffic(port)}
        for name, (received, sent) in now.items() if not first else ():
            before = seen.known.get(name, (0, 0))
            seen.connects += name not in seen.known
            seen.bytes_in += received - before[0]
            seen.bytes_out += sent - before[1]
        seen.known = now
        return Traffic(seen.connects, seen.bytes_in, seen.bytes_out)
