"""What the kernel's tables held when a command last looked, which holds for as long as no transaction has come since.

To read the rules of 64 services of 16 instances takes 0.7 s of CPU, half of it the kernel's. But every transaction of
any process raises the generation id of the network namespace, whose cookie no other ever has (SO_NETNS_COOKIE, Linux
5.14). So what was read at an id is what is there at that id. Only a state in which all is as it was set is kept: any
other is read, and told, anew. What a time-out ends is no transaction, so a state with one is not kept either.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from sys import intern

from portfleet.core import changes as c
from portfleet.core import typed
from portfleet.core.access import Access
from portfleet.core.model import Listen
from portfleet.core.slots import Table
from portfleet.core.value import value
from portfleet.dataplane.nft import memory
from portfleet.linux.machine import boot, network_namespace
from portfleet.store import atomic, state_file


class Kept:
    """The state that is kept in the file ``path``; ``generation`` returns the present generation id."""

    def __init__(self, path: Path, remembered: memory.Memory, generation: Callable[[], int]) -> None:
        self._path, self._memory, self._generation = path, remembered, generation

    def observe(self, look: Callable[[], c.PlaneState]) -> c.PlaneState:
        """Return the state that is kept if it still holds, otherwise what ``look`` returns, which is kept if it can."""
        before = self._key()
        if before is not None and (found := self._read(before)) is not None:
            return found
        state, after = look(), self._key()  # a look may write to the memory
        if before and after and before[:3] == after[:3] and state.fleet is not None and _as_set(state):
            with suppress(OSError):  # no room, or no right: it is read again
                atomic.replace(self._path, json.dumps(typed.write(_told(after, state.fleet, state))))
        return state

    def _key(self) -> tuple[str | int, ...] | None:
        """Return what a state holds for: a boot, a namespace, a generation, and the memory by which it is judged."""
        cookie = network_namespace()
        stamp = self._memory.stamp()
        if cookie is None or stamp is None:
            return None
        return boot(), cookie, self._generation(), memory.writer(), *stamp

    def _read(self, key: tuple[str | int, ...]) -> c.PlaneState | None:
        try:
            found = typed.read(_Told, state_file.parse(self._path.read_bytes()), where=self._path.name)
            return self._state(found) if found.key == key else None
        except (OSError, ValueError, IndexError):
            return None

    def _state(self, told: _Told) -> c.PlaneState | None:
        """Return the state that was kept; None if the memory lacks one of its rules."""
        rules = self._memory.rules()
        services = {name: rules.get(f"service-{name}") for name in told.services}
        instances = {name: rules.get(name) for name in told.instances}
        if None in services.values() or None in instances.values():
            return None
        return c.PlaneState(
            fleet=c.SetFleet(told.home, frozenset(told.ports)),
            services={name: rule for name, rule in services.items() if isinstance(rule, c.ServiceRule)},
            instances={name: rule for name, rule in instances.items() if isinstance(rule, c.InstanceRule)},
            slots={name: packed.table for name, packed in told.slots.items()},
            pins=told.pins,
            access=told.access,
            listens={one.listen: one.service for one in told.listens},
        )


def _as_set(state: c.PlaneState) -> bool:
    """Return whether all is as it was set, and stays so by itself."""
    rules = (*state.services.values(), *state.instances.values())
    ends = (one.until for who in state.access.values() for one in (*who.allow, *who.deny))
    wrong = state.drift or state.stale or state.unsettled or None in rules
    return not wrong and all(end is None for end in ends)


@value
class _Packed:
    """A table of slots: who is in it, and of each slot who that is, as numbers of two bytes in base64."""

    names: tuple[str | None, ...]
    slots: str

    @property
    def table(self) -> Table:
        """The table; raise ValueError or IndexError for one that is damaged."""
        numbers = array("H", base64.b64decode(self.slots, validate=True))
        names = [intern(name) if name else None for name in self.names]
        return tuple(map(names.__getitem__, numbers))


def _packed(table: Table) -> _Packed:
    names = tuple(dict.fromkeys(table))
    numbers = {name: number for number, name in enumerate(names)}
    return _Packed(names, base64.b64encode(array("H", map(numbers.__getitem__, table)).tobytes()).decode())


@value
class _Opened:
    listen: Listen
    service: str


@value
class _Told:
    """The file: what a state is made of, but for the rules, which the memory has."""

    key: tuple[str | int, ...]
    home: str
    ports: tuple[tuple[int, int], ...]
    services: tuple[str, ...]
    instances: tuple[str, ...]
    slots: Mapping[str, _Packed]
    pins: Mapping[str, Mapping[str, str]]
    access: Mapping[str, Access]
    listens: tuple[_Opened, ...]


def _told(key: tuple[str | int, ...], fleet: c.SetFleet, state: c.PlaneState) -> _Told:
    return _Told(
        key,
        fleet.home,
        tuple(sorted(fleet.ports)),
        tuple(state.services),
        tuple(state.instances),
        {name: _packed(table) for name, table in state.slots.items()},
        state.pins,
        state.access,
        tuple(_Opened(listen, service) for listen, service in state.listens.items()),
    )
