"""The journal's content: what must outlive every process: the services' records, operations that run, history.

Values and their JSON form only; ``store.journal`` reads and writes it. The version is raised when an older tool would
misread the file, or refuse it with less than the whole reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from itertools import chain
from types import NoneType
from typing import TYPE_CHECKING, Any

from portfleet.core import typed
from portfleet.core.errors import PortfleetError
from portfleet.core.records import NUMBER_LIMIT, ColourRecord, ServiceRecord, check_members
from portfleet.core.slots import Table
from portfleet.core.value import value

if TYPE_CHECKING:
    from portfleet.core.operations import Operation

#: 2: an entry of the history has ``stays``. 3: a colour has its ``launch``. 4: a service has ``before``, and a launch
#: what a process is given beside its command, such as its files.
VERSION = 4
#: History kept in the journal; older entries are told by events.
HISTORY = 200


class JournalError(PortfleetError):
    """The text is not a journal this version can use; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="it is rebuilt from what runs, and the damaged one kept, by: portfleet apply")


@value
class HistoryEntry:
    """One thing that was done: when, who, which verb with which words, and what came of it ("done" or why not).

    ``code``: the exit code of a command that waited for it; ``release`` and ``command``: what was live when it ended.
    ``stays``: it was to be undone and could not be, so that what it did holds.
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
    stays: bool = False


@value
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

    def up(self, names: Iterable[str]) -> Journal:
        """Return a journal in which none of the services ``names`` was taken down."""
        up = {name: replace(self.services[name], down="") for name in names if name in self.services}
        return replace(self, services={**self.services, **up})

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
        return replace(self, operations=(*self.without_operation(operation.number).operations, operation))

    def without_operation(self, number: int) -> Journal:
        """Return a journal in which the operation ``number`` does not run."""
        return replace(self, operations=tuple(other for other in self.operations if other.number != number))

    def noting(self, entry: HistoryEntry) -> Journal:
        """Return a journal whose history ends with ``entry``; an operation of that number has ended with it."""
        return replace(self.without_operation(entry.number), history=(*self.history, entry)[-HISTORY:])

    def free_numbers(self) -> Iterator[int]:
        """Return numbers that no instance has, the longest unused first.

        Clients of a service that was taken out of the config may be remembered by its numbers, so a number comes back
        only when all 16 million others had their turn.
        """
        taken = {number for record in self.services.values() for number in record.numbers.values()}
        last = self.last_number or max(taken, default=0)
        turns = chain(range(last + 1, NUMBER_LIMIT), range(1, last + 1))
        return (number for number in turns if number not in taken)


def to_json(journal: Journal) -> dict[str, Any]:
    """Return the journal as JSON values."""
    return {
        "version": VERSION,
        "services": {name: _service_json(record) for name, record in journal.services.items()},
        "operations": _operations_json(journal.operations),
        "history": [entry_json(entry) for entry in journal.history],
        "last_mark": journal.last_number,
    }


def entry_json(entry: HistoryEntry) -> dict[str, Any]:
    """Return an entry of the history as JSON values."""
    return vars(entry) | {"command": _list(entry.command)}


def from_json(data: Any) -> Journal:
    """Read the journal back; raises JournalError with the reason."""
    if not isinstance(data, dict) or not isinstance(data.get("version"), int):
        raise JournalError("the journal is damaged (it is no journal at all)")
    if data["version"] > VERSION:
        raise JournalError(f"the journal has version {data['version']}, this portfleet writes version {VERSION}")
    try:
        services = {name: _service(name, record) for name, record in data["services"].items()}
        operations = _operations(data.get("operations", ()))
        history = tuple(typed.read(HistoryEntry, entry, where="history") for entry in data["history"])
        last_number = min(max(_whole(data.get("last_mark", 0)), 0), NUMBER_LIMIT - 1)
        _refuse_shared(services)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise JournalError(f"the journal is damaged ({reason:.200})") from None
    return Journal(services, operations, history, last_number)


def _refuse_shared(services: Mapping[str, ServiceRecord]) -> None:
    """Raise ValueError if two instances have one number: connections are known by it."""
    numbers = [number for record in services.values() for number in record.numbers.values()]
    if len(numbers) != len({*numbers}):
        raise ValueError("two instances have the same number")


def _whole(value: Any) -> int:
    """Return a number of the file; raises ValueError for anything else, also for digits in a text."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r:.80} is not a whole number")
    return value


def _operations_json(running: tuple[Operation, ...]) -> list[dict[str, Any]]:
    if not running:
        return []
    from portfleet.core import operations  # making its dataclasses takes milliseconds; few commands meet one

    return [operations.to_json(operation) for operation in running]


def _operations(found: Any) -> tuple[Operation, ...]:
    if not found:
        return ()
    from portfleet.core import operations  # as above

    return tuple(operations.from_json(operation) for operation in found)


def _list(found: tuple[str, ...] | None) -> list[str] | None:
    return None if found is None else list(found)


def _service_json(record: ServiceRecord) -> dict[str, Any]:
    # By hand: `dataclasses.asdict` copies slot by slot, which takes 0.15 s for 64 services of 4,096.
    found = {**vars(record)}
    found["marks"] = found.pop("numbers")  # the file keeps its first words for whoever reads them
    return found | {
        "home": list(record.home),
        "before": list(record.before),
        "asked": {name: vars(asked) for name, asked in record.asked.items()},
        "colours": {name: _colour_json(ran) for name, ran in record.colours.items()},
        "denied": {network: vars(denied) for network, denied in record.denied.items()},
        "moved": {member: vars(moved) for member, moved in record.moved.items()},
    }


def _colour_json(ran: ColourRecord) -> dict[str, Any]:
    launch = ran.launch and vars(ran.launch) | {"command": list(ran.launch.command)}
    return vars(ran) | {"command": _list(ran.command), "launch": launch}


def _service(name: str, data: Any) -> ServiceRecord:
    if not isinstance(data, dict):
        raise ValueError(f"services.{name} is not an object")
    rest = {**data}
    home, rest["numbers"] = _home(rest.pop("home")), rest.pop("marks")
    return typed.read(ServiceRecord, rest, where=f"services.{name}", given={"home": home})


def _home(data: Any) -> Table:
    if not isinstance(data, list) or not {*map(type, members := {*data})} <= {str, NoneType}:
        raise ValueError("home is not a list of members")
    check_members(members - {None})
    return tuple(data)
