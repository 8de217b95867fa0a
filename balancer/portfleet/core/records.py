"""What the journal knows of one service: live colour, home table, numbers, what colours run, what was asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from portfleet.core.model import Colour, Launch
from portfleet.core.slots import Table


@dataclass(frozen=True)
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
    ``down``: who took the whole service down and since when, "" while it is up. ``counts``: its daemons keep to
    ``max_connections`` themselves, as they said when they were last looked at, so that the data plane does not count
    for them.
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
