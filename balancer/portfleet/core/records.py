"""What the journal knows of one service: live colour, home table, numbers, what colours run, what was asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field, replace
from typing import Literal

from portfleet.core import pins
from portfleet.core.model import Colour, Launch
from portfleet.core.program import unquotable, unwritable
from portfleet.core.slots import Table
from portfleet.core.value import value

#: Numbers of instances are below; a data plane may have a use of its own for those from here to 2^24.
NUMBER_LIMIT = (1 << 24) - 256
#: No service has more instances than there are ports.
_PORTS = 65535
#: The last second of the year 9999: no later one can be written.
_LAST = 253_402_300_799
_MEMBER = re.compile(r"(remote-)?[1-9][0-9]{0,4}")
_MOMENT = re.compile(r"([12][0-9]{3})-(0[1-9]|1[0-2])-([0-3][0-9])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z")


@value
class ColourRecord:
    """What a colour runs: its release, a command other than the config's (or None), and since when it does.

    ``stopped``: its processes were stopped, the rest is remembered for a rollback; ``keep_until`` (RFC 3339): when an
    idle colour is to be stopped, None for never. ``launch``: how it was started, if that is not as the applied config
    has it.
    """

    release: str | None = None
    command: tuple[str, ...] | None = None
    since: str | None = None
    stopped: bool = False
    keep_until: str | None = None
    launch: Launch | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a release or command that no file can hold, and for a time that is none."""
        launched = (*self.launch.command, *self.launch.environment.values()) if self.launch else ()
        for text in (self.release or "", *(self.command or ()), *launched):
            if words := unwritable(text):
                raise ValueError(f"{text!r:.60} {words}")
        if words := unquotable(self.release or ""):
            raise ValueError(f"release {self.release!r:.60}: {words}")
        for moment in (self.since, self.keep_until):
            check_moment(moment)


@value
class Asked:
    """What an operator asked of one instance (kept until undone), by whom, when and why."""

    wanted: Literal["drained", "maintenance"]
    since: str
    who: str
    why: str = ""


@value
class Denied:
    """A network that may not connect: since when, by whom and why; ``until`` (Unix time) or for good."""

    since: str
    who: str
    why: str = ""
    until: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an end that is no time."""
        _check_range("until", 0 if self.until is None else self.until, 0, _LAST)


@value
class Moved:
    """A member's share that another member serves: ``percent`` of its slots."""

    to: str
    percent: int = 100

    def __post_init__(self) -> None:
        """Raise ValueError for what is no member or no share."""
        check_members([self.to])
        _check_range("percent", self.percent, 0, 100)


@value
class ServiceRecord:
    """What the journal knows of one service. ``home`` has a member per slot; ``numbers`` one per instance name.

    ``canary``: per cent of the slots that the idle colour serves; ``moved``: shares that were migrated, by member.
    ``instances``: how many a colour has by `scale`, which counts as long as the config says ``config_instances``;
    ``leaving``: those above that number and up to this one have no slots any more and are being emptied.
    ``pins``: {network: member}, the longest prefix decides. ``denied``: {network: denial} beside the config's.
    ``down``: who took the whole service down and since when, "" while it is up. ``counts``: its daemons keep to
    ``max_connections`` themselves, as they said when they were last looked at, so that the data plane does not count
    for them. ``before``: the home table before its last change: who has a new member's slots until it serves.
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
    counts: bool = False
    before: Table = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a number out of its range, and for what is no network or no member."""
        _check_range("seed", self.seed, 0, (1 << 32) - 1)
        _check_range("canary", self.canary, 0, 100)
        for name, count in (("instances", self.instances), ("config_instances", self.config_instances)):
            _check_range(name, 1 if count is None else count, 1, _PORTS)
        _check_range("leaving", self.leaving, 0, _PORTS)
        for number in self.numbers.values():
            _check_range("a number", number, 1, NUMBER_LIMIT - 1)
        for network in (*self.pins, *self.denied):
            pins.parse(network)
        check_members([*self.moved, *self.pins.values(), *{member for member in self.before if member}])

    def asked_of(self, names: Collection[str]) -> dict[str, Asked]:
        """Return what is asked of ``names``, for an operation to remember."""
        return {name: asked for name, asked in self.asked.items() if name in names}

    def asking(self, names: Iterable[str], asked: Asked) -> ServiceRecord:
        """Return the record in which ``asked`` is asked of ``names``."""
        return replace(self, asked={**self.asked, **dict.fromkeys(names, asked)})

    def asking_nothing(self, names: Collection[str]) -> ServiceRecord:
        """Return the record in which nothing is asked of ``names`` any more."""
        return replace(self, asked={name: asked for name, asked in self.asked.items() if name not in names})

    def asking_again(self, names: Collection[str], before: Mapping[str, Asked]) -> ServiceRecord:
        """Return the record in which of ``names`` is asked what `asked_of` gave before.

        An instance that an undrain has let in meanwhile stays in.
        """
        back = {name: before[name] for name in names if name in before and name in self.asked}
        kept = self.asking_nothing(names)
        return replace(kept, asked={**kept.asked, **back})

    def asking_before(self, before: Mapping[str, Asked]) -> ServiceRecord:
        """Return the record in which what `asked_of` gave is asked as well."""
        return replace(self, asked={**self.asked, **before})

    def with_colour(self, colour: Colour, ran: ColourRecord) -> ServiceRecord:
        """Return the record in which ``colour`` runs ``ran``."""
        return replace(self, colours={**self.colours, colour: ran})

    def with_launch(self, colour: Colour, launch: Launch) -> ServiceRecord:
        """Return the record in which ``colour`` is started by ``launch``, unless it is known to be by another."""
        ran = self.colours[colour]
        return self.with_colour(colour, replace(ran, launch=ran.launch or launch))

    def with_colour_kept(self, colour: Colour, until: str) -> ServiceRecord:
        """Return the record in which the idle ``colour`` is kept until ``until`` (RFC 3339)."""
        return self.with_colour(colour, replace(self.colours[colour], keep_until=until))

    def with_colour_stopped(self, colour: Colour) -> ServiceRecord:
        """Return the record in which the idle ``colour`` has no processes; what it ran stays known."""
        return self.with_colour(colour, replace(self.colours[colour], stopped=True, keep_until=None))

    def with_colour_as_before(self, colour: Colour, before: ColourRecord | None) -> ServiceRecord:
        """Return the record in which ``colour`` is stopped and last ran ``before`` (None: nothing)."""
        if before is None:
            return replace(self, colours={name: value for name, value in self.colours.items() if name != colour})
        return self.with_colour(colour, replace(before, stopped=True, keep_until=None))


def check_members(members: Iterable[str]) -> None:
    """Raise ValueError for what is not the name of a member of home tables: ``2``, ``remote-1``."""
    for member in members:
        if not _MEMBER.fullmatch(member):
            raise ValueError(f"{member!r:.60} is not a member")


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}, not from {least:,} to {most:,}"[:200])


def check_moment(value: str | None) -> None:
    """Raise ValueError for what is neither None nor a time as `clock.stamp` writes it: RFC 3339, UTC, seconds."""
    found = _MOMENT.fullmatch(value) if value is not None else None
    if value is not None and (found is None or int(found[3]) > _days(int(found[1]), int(found[2]))):
        raise ValueError(f"{value!r:.60} is not a time")


def _days(year: int, month: int) -> int:
    """Return how many days a month has; `calendar`, which knows it too, costs `status` a millisecond."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31
