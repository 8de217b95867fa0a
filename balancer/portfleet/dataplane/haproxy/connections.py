"""Established connections behind HAProxy: its own to instances by sock_diag, and what its counters say of the rest.

Whose a connection on this box is, its port says only as long as it was not handed off; daemons that hand off are
asked themselves. HAProxy's books keep the server that a connection was first made to.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from portfleet.core.changes import InstanceRule
from portfleet.core.errors import PortfleetError
from portfleet.dataplane.haproxy.client import Client, ask
from portfleet.dataplane.haproxy.running import clients
from portfleet.dataplane.haproxy.state import service_of
from portfleet.dataplane.haproxy.text import Place, server_of
from portfleet.dataplane.interface import Address, ClientConnection, Hold, Room
from portfleet.linux import sockdiag

#: Sessions that one line of commands ends.
_AT_ONCE = 100
#: Seconds for which counters are good enough: the watcher asks for them with every probe.
_FRESH = 0.5


class HaproxyConnections:
    """See `Connections`. A hold is named by the process's number and HAProxy's own name of the session."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._room: tuple[float, Room | None] = (-_FRESH, None)

    def count(self, instances: Iterable[InstanceRule]) -> Mapping[str, int | None]:
        rules = list(instances)
        by_port = sockdiag.established() if any(rule.remote is None for rule in rules) else {}
        there = self._sum("scur") if any(rule.remote for rule in rules) else {}
        return {rule.name: by_port[rule.port] if rule.remote is None else there.get(_key(rule), 0) for rule in rules}

    def of(self, instance: InstanceRule) -> list[Hold]:
        service, server = _key(instance)
        return [
            Hold(f"{client.number} {session}".encode())
            for client in clients(self._place)
            for session in _sessions(client, service, server)
        ]

    def of_client(self, instances: Iterable[InstanceRule], address: Address) -> list[ClientConnection]:
        names = {_key(rule): rule.name for rule in instances}
        found = []
        for client in clients(self._place):
            for line in ask(client.socket, "show sess").splitlines():
                told = dict(word.split("=", 1) for word in line.split() if "=" in word)
                source, _, port = told.get("src", "").rpartition(":")
                name = names.get((told.get("be", ""), told.get("srv", "")))
                if name is not None and _same(source, address):
                    found.append(ClientConnection(name, int(port), since=time.time() - _age(told.get("age", ""))))
        return found

    def end(self, holds: Iterable[Hold]) -> int:
        ended = 0
        found = [hold.name.decode().split(" ", 1) for hold in holds]
        for client in clients(self._place):
            mine = [session for number, session in found if int(number) == client.number]
            for first in range(0, len(mine), _AT_ONCE):
                some = mine[first : first + _AT_ONCE]
                answer = ask(client.socket, ";".join(f"shutdown session {session}" for session in some))
                ended += len(some) - answer.count("No such session")
        return ended

    def forget_unanswered(self, instance: InstanceRule) -> int:  # noqa: ARG002 (HAProxy dispatches them anew itself)
        return 0

    def forget_ended(self, connections: Iterable[sockdiag.Ends]) -> None:
        """Do nothing: the kernel's connection table is not ours."""

    def turned_away(self, instances: Iterable[InstanceRule]) -> Mapping[str, int]:
        found = self._sum("wredis")
        return {rule.name: found.get(_key(rule), 0) for rule in instances if rule.remote is None}

    def refused(self, service: str) -> int:
        rows = (row for client in clients(self._place) for row in client.stat(1))
        return sum(int(row.get("dcon") or 0) for row in rows if row["pxname"] == service)

    def full(self) -> str:
        room = self.room()
        return "" if room is None or room.used < room.limit else f"{room.words}, and new connections wait"

    def room(self) -> Room | None:
        read_at, room = self._room
        if time.monotonic() - read_at >= _FRESH:
            room = self._read_room()
            self._room = (time.monotonic(), room)
        return room

    def _read_room(self) -> Room | None:
        """Return the room of the fullest process: the kernel shares clients out without asking how full one is."""
        try:
            said = [client.info() for client in clients(self._place)]
        except PortfleetError:
            return None
        rooms = [(int(one["CurrConns"]), int(one["Maxconn"])) for one in said if "Maxconn" in one]
        if not rooms:
            return None
        used, limit = max(rooms, key=lambda room: room[0] / max(1, room[1]))
        words = f"an HAProxy process holds {used:,} of {limit:,} connections"
        return Room("haproxy", used=used, limit=limit, dropped=0, words=words, hint=f"ulimit -n {4 * limit + 64}")

    def _sum(self, column: str) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for client in clients(self._place):
            for row in client.stat(4):
                found[row["pxname"], row["svname"]] += int(row.get(column) or 0)
        return found


def _key(rule: InstanceRule) -> tuple[str, str]:
    return service_of(rule.name), server_of(rule)


def _same(text: str, address: Address) -> bool:
    """Return whether HAProxy means ``address`` by ``text``, which may be in brackets and IPv4 mapped."""
    try:
        found = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return address in (found, getattr(found, "ipv4_mapped", None))


def _age(text: str) -> int:
    """Return seconds of a session's age as HAProxy writes it: 5s, 1m3s, 2h7m, 1d4h."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([dhms])", text))


def _sessions(client: Client, service: str, server: str) -> Iterator[str]:
    for line in ask(client.socket, "show sess").splitlines():
        name, _, rest = line.partition(": ")
        if f" be={service} srv={server} " in f" {rest} ":
            yield name
