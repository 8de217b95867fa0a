"""The journal's content: what must outlive every process: live colour, home table, numbers, what operators asked for.

Values and their JSON form only; ``journal_file`` reads and writes it. The version is raised when an older tool would
misread the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any, Literal, cast

from portfleet.core.errors import PortfleetError
from portfleet.core.model import Colour
from portfleet.core.slots import Table

VERSION = 1
#: Numbers of instances are below; a data plane may have a use of its own for those from here to 2^24.
NUMBER_LIMIT = (1 << 24) - 256
#: History kept in the journal; older entries are in the log.
HISTORY = 200


class JournalError(PortfleetError):
    """The text is not a journal this version can use; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="it is rebuilt from what runs, and the damaged one kept, by: portfleet apply")


@dataclass(frozen=True)
class ColourRecord:
    """What a colour runs: its release, a command other than the config's (or None), and since when it does.

    ``stopped``: its processes were stopped, the rest is remembered for a rollback; ``keep_until`` (RFC 3339): when an
    idle colour is to be stopped, None for never.
    """

    release: str | None = None
    command: tuple[str, ...] | None = None
    since: str | None = None
    stopped: bool = False
    keep_until: str | None = None


@dataclass(frozen=True)
class Asked:
    """What an operator asked of one instance (kept until undone), by whom, when and why."""

    wanted: Literal["drained", "maintenance"]
    since: str
    who: str
    why: str = ""


@dataclass(frozen=True)
class Denied:
    """A network that may not connect: since when, by whom and why; ``until`` (Unix time) or for good."""

    since: str
    who: str
    why: str = ""
    until: int | None = None


@dataclass(frozen=True)
class Moved:
    """A member's share that another member serves: ``percent`` of its slots."""

    to: str
    percent: int = 100


@dataclass(frozen=True)
class ServiceRecord:
    """What the journal knows of one service. ``home`` has a member per slot; ``numbers`` one per instance name.

    ``canary``: per cent of the slots that the idle colour serves; ``moved``: shares that were migrated, by member.
    ``instances``: how many a colour has by `scale`, which counts as long as the config says ``config_instances``;
    ``leaving``: those above that number and up to this one have no slots any more and are being emptied.
    ``pins``: {network: member}, the longest prefix decides. ``denied``: {network: denial} beside the config's.
    ``down``: who took the whole service down and since when, "" while it is up.
    """

    live: Colour
    seed: int
    home: Table
    numbers: Mapping[str, int] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)
    colours: Mapping[Colour, ColourRecord] = field(default_factory=dict)
    config_release: str | None = None
    canary: int = 0
    moved: Mapping[str, Moved] = field(default_factory=dict)
    instances: int | None = None
    config_instances: int | None = None
    leaving: int = 0
    pins: Mapping[str, str] = field(default_factory=dict)
    denied: Mapping[str, Denied] = field(default_factory=dict)
    down: str = ""

    def asked_of(self, names: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return what is asked of ``names``, as JSON values, for an operation to remember."""
        return {name: asdict(asked) for name, asked in self.asked.items() if name in names}

    def asking(self, names: Iterable[str], asked: Asked) -> ServiceRecord:
        """Return the record in which ``asked`` is asked of ``names``."""
        return replace(self, asked={**self.asked, **dict.fromkeys(names, asked)})

    def asking_nothing(self, names: Collection[str]) -> ServiceRecord:
        """Return the record in which nothing is asked of ``names`` any more."""
        return replace(self, asked={name: asked for name, asked in self.asked.items() if name not in names})

    def asking_again(self, names: Collection[str], before: Mapping[str, Mapping[str, Any]]) -> ServiceRecord:
        """Return the record in which of ``names`` is asked what `asked_of` gave before.

        An instance that an undrain has let in meanwhile stays in.
        """
        back = {name: Asked(**before[name]) for name in names if name in before and name in self.asked}
        kept = self.asking_nothing(names)
        return replace(kept, asked={**kept.asked, **back})

    def asking_before(self, before: Mapping[str, Mapping[str, Any]]) -> ServiceRecord:
        """Return the record in which what `asked_of` gave is asked as well."""
        return replace(self, asked={**self.asked, **{name: Asked(**asked) for name, asked in before.items()}})

    def with_colour(self, colour: Colour, ran: ColourRecord) -> ServiceRecord:
        """Return the record in which ``colour`` runs ``ran``."""
        return replace(self, colours={**self.colours, colour: ran})

    def with_colour_kept(self, colour: Colour, until: str) -> ServiceRecord:
        """Return the record in which the idle ``colour`` is kept until ``until`` (RFC 3339)."""
        return self.with_colour(colour, replace(self.colours[colour], keep_until=until))

    def with_colour_stopped(self, colour: Colour) -> ServiceRecord:
        """Return the record in which the idle ``colour`` has no processes; what it ran stays known."""
        return self.with_colour(colour, replace(self.colours[colour], stopped=True, keep_until=None))

    def with_colour_as_before(self, colour: Colour, before: Mapping[str, Any] | None) -> ServiceRecord:
        """Return the record in which ``colour`` is stopped and last ran ``before`` (JSON values; None: nothing)."""
        others = {name: value for name, value in self.colours.items() if name != colour}
        if before is None:
            return replace(self, colours=others)
        command = tuple(before["command"]) if before["command"] else None
        ran = ColourRecord(**{**before, "command": command, "stopped": True, "keep_until": None})
        return replace(self, colours={**others, colour: ran})


@dataclass(frozen=True)
class Operation:
    """A long operation that the watcher advances: who asked for it, how far it is, and what it needs to go on.

    ``phase`` is where it goes on after a restart; ``done`` of ``total`` is its progress (total 0: not known yet).
    ``owned``: instances that it starts and stops itself in this phase, so that the watcher leaves them alone;
    ``failed``: why it is being undone, "" while it is not; ``begun``: a watcher advances it, or did until its end;
    ``resumed``: the phase at which it last had to be resumed.
    """

    number: int
    service: str
    verb: str
    words: str
    who: str
    since: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    phase: str = "begin"
    done: int = 0
    total: int = 0
    note: str = ""
    cancelled: bool = False
    owned: tuple[str, ...] = ()
    failed: str = ""
    begun: bool = False
    resumed: str = ""


#: How an outcome says that the operation could not be undone.
STAYS = "what was done stays"


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that was done: when, who, which verb with which words, and what came of it ("done" or why not).

    ``code``: the exit code of a command that waited for it; ``release`` and ``command``: what was live when it ended.
    """

    number: int
    at: str
    who: str
    service: str
    verb: str
    words: str
    outcome: str
    ok: bool = True
    code: int = 0
    release: str | None = None
    command: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Journal:
    """The whole journal. ``last_number`` is the number that was given last, 0 if that is not known."""

    services: Mapping[str, ServiceRecord] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    last_number: int = 0

    def with_service(self, name: str, record: ServiceRecord) -> Journal:
        """Return a journal in which ``record`` stands for the service ``name``."""
        return replace(self, services={**self.services, name: record})

    def without_service(self, name: str) -> Journal:
        """Return a journal without the service ``name``."""
        return replace(self, services={key: value for key, value in self.services.items() if key != name})

    def all_up(self) -> Journal:
        """Return a journal in which no service was taken down."""
        return replace(self, services={name: replace(record, down="") for name, record in self.services.items()})

    def operation(self, number: int) -> Operation | None:
        """Return a running operation by its number."""
        return next((operation for operation in self.operations if operation.number == number), None)

    def running(self, service: str) -> Operation | None:
        """Return the operation that is running on ``service``."""
        return next((operation for operation in self.operations if operation.service == service), None)

    def next_number(self) -> int:
        """Return the number of the next operation."""
        used = [entry.number for entry in self.history] + [operation.number for operation in self.operations]
        return max(used, default=0) + 1

    def with_operation(self, operation: Operation) -> Journal:
        """Return a journal in which ``operation`` runs, in place of the one with its number."""
        others = tuple(other for other in self.operations if other.number != operation.number)
        return replace(self, operations=(*others, operation))

    def ended(self, operation: Operation, entry: HistoryEntry) -> Journal:
        """Return a journal in which ``operation`` has ended as ``entry`` says."""
        others = tuple(other for other in self.operations if other.number != operation.number)
        return replace(self, operations=others, history=(*self.history, entry)[-HISTORY:])

    def free_numbers(self) -> Iterator[int]:
        """Return numbers that no instance has, the longest unused first.

        Connections of a service that was taken out of the config are known by its numbers for as long as they live,
        so a number comes back only when all 16 million others had their turn.
        """
        taken = {number for record in self.services.values() for number in record.numbers.values()}
        last = self.last_number or max(taken, default=0)
        turns = chain(range(last + 1, NUMBER_LIMIT), range(1, last + 1))
        return (number for number in turns if number not in taken)


def to_json(journal: Journal) -> dict[str, Any]:
    """Return the journal as JSON values."""
    data = asdict(journal)
    for record in data["services"].values():
        record["marks"] = record.pop("numbers")  # the file keeps its first words, so that older versions read it
    data["last_mark"] = data.pop("last_number")
    return {"version": VERSION, **data}


def from_json(data: Any) -> Journal:
    """Read the journal back; raises JournalError with the reason."""
    if not isinstance(data, dict) or not isinstance(data.get("version"), int):
        raise JournalError("the journal is damaged (it is no journal at all)")
    if data["version"] > VERSION:
        raise JournalError(f"the journal has version {data['version']}, this portfleet writes version {VERSION}")
    try:
        services = {name: _service(record) for name, record in data["services"].items()}
        operations = tuple(Operation(**_tuples(operation, "owned")) for operation in data.get("operations", ()))
        history = tuple(HistoryEntry(**_tuples(entry, "command")) for entry in data["history"])
        last_number = min(max(_whole(data.get("last_mark", 0)), 0), NUMBER_LIMIT - 1)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(f"the journal is damaged ({error!r})") from None
    return Journal(services, operations, history, last_number)


def _whole(value: Any) -> int:
    """Return a number of the file; raises ValueError for anything else, also for digits in a text."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r:.80} is not a whole number")
    return value


def _tuples(data: dict[str, Any], key: str) -> dict[str, Any]:
    """Return ``data`` with the list under ``key``, JSON's only sequence, as a tuple."""
    return data | {key: tuple(data[key])} if data.get(key) is not None else data


def _service(data: dict[str, Any]) -> ServiceRecord:
    if data["live"] not in ("blue", "green"):
        raise ValueError("live is neither blue nor green")
    if not isinstance(data["home"], list) or not all(isinstance(member, str | None) for member in data["home"]):
        raise ValueError("home is not a list of members")
    return ServiceRecord(
        live=data["live"],
        seed=_whole(data["seed"]),
        home=tuple(data["home"]),
        numbers={name: _whole(number) for name, number in data["marks"].items()},
        asked={name: Asked(**asked) for name, asked in data["asked"].items()},
        colours={
            cast(Colour, colour): ColourRecord(**_tuples(record, "command"))
            for colour, record in data["colours"].items()
        },
        config_release=data["config_release"],
        canary=_whole(data.get("canary", 0)),
        moved={member: Moved(**moved) for member, moved in data.get("moved", {}).items()},
        instances=data.get("instances"),
        config_instances=data.get("config_instances"),
        leaving=_whole(data.get("leaving", 0)),
        pins=dict(data.get("pins", {})),
        denied={network: Denied(**denied) for network, denied in data.get("denied", {}).items()},
        down=str(data.get("down", "")),
    )
