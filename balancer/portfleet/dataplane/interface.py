"""A data plane: what carries new connections to instances. One page, for whoever uses one or writes another.

The control tool decides in values (`core.changes`), a data plane carries them out. It may be the kernel (nftables) or a
process (HAProxy); nothing outside its folder knows which. `dataplane.choose` makes the one that the fleet asks for.

- What moves is a *transaction*: `check` says whether it would be taken, `run` does all of it or nothing. Every change
  states what is to be, not how to get there, so that doing it again changes nothing.
- What must be read to decide (`observe`, `read_slots`) is read under the table lock, and decided and run under the same
  hold of it. `read_slots` is cheap enough for every ejection.
- Established connections are the business of `connections` alone: no change ever touches one.
- The watcher holds a `Guardian` for as long as it lives; everything else works without one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from portfleet.core.value import value

if TYPE_CHECKING:  # what names here stand for costs `status` nothing
    from portfleet.core.changes import InstanceRule, PlaneState, ServiceRule, Transaction
    from portfleet.core.errors import Problem
    from portfleet.core.model import Affinity, Fleet, Listen
    from portfleet.core.needs import Needs
    from portfleet.core.observed import OwnProcess
    from portfleet.core.program import Program
    from portfleet.core.slots import Table
    from portfleet.dataplane.relocation import Relocation
    from portfleet.doctor.finding import Finding
    from portfleet.linux.sockdiag import Ends

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@value
class Traits:
    """What a data plane is like, for those who must know.

    ``name`` is its value in fleet.toml; ``words`` name it in messages; ``requires``: what it needs, and which systems
    have that; ``place``: what only one fleet can use it in. ``listen``: where instances must listen to be reached;
    ``families``: the address families by which they are reached, None for those of the clients. ``sees_clients``: an
    instance's peer is the client itself; ``guards_ports``: outsiders cannot reach an instance past the data plane;
    ``survives``: established connections outlive the data plane's own processes; ``own_clients_apart``: clients on this
    box never go to remote instances. ``services_at_once`` and ``slots_at_once``: how many new services, or moved slots,
    one transaction should hold; ``slots_unnoticed``: how many it may move without clients waiting for a processor.
    """

    name: Literal["nftables", "haproxy"]
    words: str
    requires: str
    place: str
    listen: Literal["wildcard", "loopback"]
    families: frozenset[Literal[4, 6]] | None
    sees_clients: bool
    guards_ports: bool
    survives: bool
    own_clients_apart: bool
    services_at_once: int
    slots_at_once: int
    slots_unnoticed: int


@value
class Hold:
    """One established connection of an instance, by a name that only its data plane understands."""

    name: bytes


@value
class ClientConnection:
    """An established connection of a client: the ``instance`` that it came by and the client's ``port``.

    ``inode`` is the socket of the instance's side, if that is a process on this box that the client's packets reach;
    ``since`` is when it began (Unix time). Both are None if they are not known.
    """

    instance: str
    port: int
    inode: int | None = None
    since: float | None = None


@value
class Foreign:
    """A change that another process made to what is ours. ``process`` and ``pid``: by whom, "" and 0 if not known.

    ``lost``: what is ours is gone as a whole, so that it must be put back at once.
    """

    process: str = ""
    pid: int = 0
    lost: bool = False


@value
class Door:
    """A service as its clients meet it: what they dial, and the ports of its instances on this box (inclusive)."""

    listens: tuple[Listen, ...]
    ports: tuple[int, int]


@value
class Done:
    """What a guardian did for connections: an event of the log with its fields."""

    event: str
    fields: Mapping[str, object]


@value
class Room:
    """Room for connections: ``used`` of ``limit``, and how many were ``dropped`` for want of it since it is counted.

    ``about`` names it for programs, ``words`` for people; ``hint`` is the command that makes more.
    """

    about: str
    used: int
    limit: int
    dropped: int
    words: str
    hint: str


@value
class Hazard:
    """What on this box costs clients, or will: a name for programs, words for people, the command that ends it."""

    about: str
    words: str
    hint: str


class Connections(Protocol):
    """Established connections as the data plane knows them. Methods raise PortfleetError if it refuses to tell."""

    def count(self, instances: Iterable[InstanceRule]) -> Mapping[str, int | None]:
        """Return how many established connections each instance has, by name; None if that cannot be told.

        A connection that was handed off to another process counts for the instance it came by.
        """

    def of(self, instance: InstanceRule) -> list[Hold]:
        """Return the established connections of an instance."""

    def of_client(self, instances: Iterable[InstanceRule], address: Address) -> list[ClientConnection]:
        """Return the established connections of a client to ``instances``."""

    def end(self, holds: Iterable[Hold]) -> int:
        """Close connections, which their clients see as a reset; return how many were still there."""

    def forget_unanswered(self, instance: InstanceRule) -> int:
        """Have attempts to connect that an instance did not answer begin anew elsewhere; return how many there were."""

    def forget_ended(self, connections: Iterable[Ends]) -> None:
        """Free the room of connections that this process has made and ended: probes leave a thousand a second."""

    def turned_away(self, instances: Iterable[InstanceRule]) -> Mapping[str, int]:
        """Return how many connection attempts found no listener, by instance, since the rules were loaded."""

    def refused(self, service: str) -> int:
        """Return how many connection attempts a service's `Access` and limit per source have refused.

        Counted since its rules were loaded.
        """

    def full(self) -> str:
        """Return why no new connection can be made through the data plane, probes included; "" if one can."""

    def room(self) -> Room | None:
        """Return how much room for connections the data plane has; None if it has no bound of its own."""


@value
class Shortage:
    """Something that this machine ``refused``, and what that ``costs``, in words."""

    refused: str
    costs: str


class Guardian(Protocol):
    """What the watcher holds while it lives: it hears of foreign changes and keeps clients safe meanwhile."""

    @property
    def every(self) -> float:
        """Seconds between two looks that nothing asked for: a backstop if changes are told, otherwise the poll."""

    @property
    def shortage(self) -> Shortage | None:
        """What this machine refused the guardian; None if nothing."""

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when there is something to `read`; None if there is none to wait for."""

    def read(self) -> list[Foreign]:
        """Return what others changed since the last call, never what this process changed itself; never wait."""

    def hold(self, doors: Iterable[Door]) -> None:
        """Keep clients of exactly ``doors`` from being refused while rules are missing.

        Raise PortfleetError (exit 5) if another watcher does that here already.
        """

    @property
    def due(self) -> float | None:
        """Seconds until there is something to `work` on; None if there is nothing before the next `read` or `hold`."""

    def work(self) -> list[Done]:
        """Look after connections that the data plane has lost track of; return what was done.

        May take as long as counting all connections does: call it in another thread, and never twice at a time. Raise
        PortfleetError if the kernel refuses; `due` then says when to try again.
        """

    def hazards(self) -> list[Hazard]:
        """Return what others have set up on this box that costs clients, or will. It may take a second."""

    def close(self) -> None:
        """Let everything go. The same happens when the process ends, however it ends."""


class DataPlane(Protocol):
    """A data plane. Every method raises PortfleetError (exit 3) when it is refused; then nothing was changed."""

    @property
    def traits(self) -> Traits:
        """What this data plane is like."""

    @property
    def connections(self) -> Connections:
        """Established connections."""

    def slot_of(self, affinity: Affinity, address: Address, port: int | None, *, seed: int, slots: int) -> int | None:
        """Return the slot (0 … slots − 1) of a client's connection; None for the random kinds of affinity. Pure.

        Raise ValueError if the affinity counts the client's ``port`` and it is None.
        """

    def table_for_own_clients(self, table: Table, local: Collection[str]) -> Table:
        """Return the table of clients on this box, who get ``local`` instances alone; it may have other slots. Pure."""

    def version(self) -> Hashable:
        """Return what differs whenever `observe` may, but for elements that time out; None if that is not known."""

    def observe(self) -> PlaneState:
        """Read back everything of ours."""

    def home(self) -> str | None:
        """Return the identity of the fleet that is served here, as `observe` tells it; None if there is none."""

    def read_slots(self, service: str) -> Table:
        """Read one service's slots; empty if there are none."""

    def remembered(self, rule: ServiceRule, address: Address) -> str | None:
        """Return the instance that a sticky client is remembered with."""

    def recover(self) -> PlaneState:
        """Read back everything as `observe` does, with numbers, ports and seeds read out of the rules themselves.

        For a lost journal: rules that were edited by hand are taken at their word; affinities are not read.
        """

    def check(self, transaction: Transaction) -> None:
        """Ask whether ``transaction`` would be taken, changing nothing."""

    def run(self, transaction: Transaction) -> None:
        """Carry out ``transaction`` as one."""

    def text(self, transaction: Transaction) -> str:
        """Return ``transaction`` in the data plane's own language, for people and golden tests.

        Transactions that are printed one after the other see what the ones before would have set.
        """

    def missing(self) -> list[str]:
        """Return what this machine lacks for the data plane, a line each; empty if nothing."""

    def problems(self, fleet: Fleet) -> list[Problem]:
        """Return what of ``fleet`` cannot be on this data plane, or not on this machine."""

    def programs(self, fleet: Fleet) -> Mapping[str, Program]:
        """Return the data plane's own processes that supervisord is to run, by name."""

    def processes(self) -> Mapping[str, OwnProcess]:
        """Return those of its own `programs` that take orders now, by name."""

    def findings(self, fleet: Fleet, needs: Needs) -> list[Finding]:
        """Return what `doctor` has to say of the data plane."""

    def relocation(self) -> Relocation | None:
        """Return what moves connections to another box and takes them in; None if this data plane cannot."""

    def guardian(self) -> Guardian:
        """Return the watcher's guardian; from now on this data plane also remembers what it has read."""
