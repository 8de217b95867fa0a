"""nftables as the data plane: text in through libnftables, state out through nfnetlink.

One transaction is one batch on one netlink socket: the kernel takes all of it or nothing, and packets see the state
before or the state after; `parts` is for what is too long for that. What we set is remembered beside the kernel's form
of it (``run/rules.json``), so that a later difference is a hand edit; without that file rules are simply set again.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from portfleet.core import changes as c
from portfleet.core.model import Affinity, Fleet
from portfleet.core.slots import Table
from portfleet.dataplane.nft import listing, observation
from portfleet.dataplane.nft.affinity import slot_for, source_of
from portfleet.dataplane.nft.cached import SlotCache
from portfleet.dataplane.nft.connections import NftConnections
from portfleet.dataplane.nft.kept import Kept
from portfleet.dataplane.nft.lookup import Lookup, named
from portfleet.dataplane.nft.memory import Memory, writer
from portfleet.dataplane.nft.reader import NftReader
from portfleet.dataplane.nft.sides import local_table

if TYPE_CHECKING:
    from portfleet.core.errors import Problem
    from portfleet.core.needs import Needs
    from portfleet.core.observed import OwnProcess
    from portfleet.core.program import Program
    from portfleet.dataplane.interface import Address, Guardian, Traits
    from portfleet.dataplane.nft.writer import NftWriter
    from portfleet.dataplane.relocation import Relocation
    from portfleet.doctor.finding import Finding

NAME = "portfleet"


class NftPlane:
    """nftables (see `DataPlane`). ``memory`` is the file that remembers what was set."""

    def __init__(self, memory: Path) -> None:
        self._memory = Memory(memory)
        self._reader = NftReader(NAME)
        self._lookup = Lookup(self._reader, self._memory)
        self._kept = Kept(memory.with_name("observed.json"), self._memory, self._reader.generation)
        self._cache: SlotCache | None = None
        self.connections = NftConnections(self._reader)

    @property
    def traits(self) -> Traits:
        from portfleet.dataplane.nft.traits import TRAITS  # not for `status`

        return TRAITS

    @cached_property
    def _writer(self) -> NftWriter:
        from portfleet.dataplane.nft.writer import NftWriter  # not for `status`

        return NftWriter(self._reader, self._lookup, self._memory, self.read_slots)

    def slot_of(self, affinity: Affinity, address: Address, port: int | None, *, seed: int, slots: int) -> int | None:
        return slot_for(affinity, address, port, seed=seed, slots=slots)

    def table_for_own_clients(self, table: Table, local: Collection[str]) -> Table:
        return local_table(table, local)

    def version(self) -> Hashable:
        return self._reader.generation(), self._memory.stamp()

    def observe(self) -> c.PlaneState:
        if self._cache is None:  # a command
            return self._kept.observe(lambda: observation.observe(self._reader, self._lookup, self._memory))
        with self._cache.reading() as note:
            state = observation.observe(self._reader, self._lookup, self._memory)
            note(state.slots)
        return state

    def home(self) -> str | None:
        guard = self._reader.chains("guard")
        return listing.home_of(guard) if guard or self._reader.exists() else None

    def recover(self) -> c.PlaneState:
        return observation.recovered(self.observe(), self._reader, self._lookup)

    def read_slots(self, service: str) -> Table:
        if self._cache is None:  # commands read them to decide, under the lock to be sure, and to write the difference
            self._cache = SlotCache(self._reader.generation)
        return self._cache.read(service, self._read_slots)

    def remembered(self, rule: c.ServiceRule, address: Address) -> str | None:
        if rule.sticky is None:
            return None
        name = f"sticky{address.version}-{rule.sticky.size}-{rule.name}"
        found = self._reader.element(name, source_of(rule.affinity, address))
        return named(listing.number(found.data), self._lookup.numbers(rule.name)) if found and found.data else None

    def check(self, transaction: c.Transaction) -> None:
        self._writer.check(transaction)

    def run(self, transaction: c.Transaction) -> None:
        if self._cache is None:
            self._writer.run(transaction)
            return
        with self._cache.changing(self._writer.done) as follow:
            self._writer.run(transaction)
            follow({change.rule.name: change.table for change in transaction if isinstance(change, c.Route)})

    def text(self, transaction: c.Transaction) -> str:
        return self._writer.text(transaction)

    def missing(self) -> list[str]:
        from portfleet.dataplane.nft import capabilities  # not for `status`

        return capabilities.missing()

    def problems(self, fleet: Fleet) -> list[Problem]:
        from portfleet.dataplane.nft import capabilities

        return [*capabilities.forwarding(fleet), *capabilities.unneeded(fleet)]

    def programs(self, fleet: Fleet) -> Mapping[str, Program]:  # noqa: ARG002 (the kernel needs no process)
        return {}

    def processes(self) -> Mapping[str, OwnProcess]:
        return {}

    def findings(self, fleet: Fleet, needs: Needs) -> list[Finding]:
        from portfleet.dataplane.nft.doctor import examine

        return list(examine(fleet, needs))

    def relocation(self) -> Relocation:
        from portfleet.dataplane.nft.relocation import NftRelocation

        return NftRelocation()

    def guardian(self) -> Guardian:
        from portfleet.dataplane.nft.guardian import NftGuardian

        self._writer.done()  # loaded now, as is what follows: files may be replaced under a watcher
        writer()
        # It works in another thread, so what it reads with is its own.
        guardian = NftGuardian(Lookup(NftReader(NAME), Memory(self._memory.path)))
        self._cache = guardian.cache
        return guardian

    def _read_slots(self, service: str) -> Table:
        return self._lookup.table("slots", service, self._lookup.numbers(service))
