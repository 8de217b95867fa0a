"""What a row of the table of settings is made of. No dataclasses, for the reason that config/kinds has none."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any, NamedTuple

from portfleet.config.kinds import Kind


class Effect(Enum):
    """What it takes for a changed value to hold, in the words of the reference."""

    AT_ONCE = "at once"  #: `apply` restarts nothing
    RESTART = "a rolling restart"  #: `apply` does it
    CUTOVER = "a cutover"  #: `apply` only says so
    DOWN = "down and up"  #: the service ends and starts anew


class Setting(NamedTuple):
    """One key.

    ``brief`` is what it means, in the example's words; ``more`` is what else the reference says of it. ``effect`` is
    what a change takes, ``change`` what else it does. ``example`` is a value as fleet.toml holds it; ``shown`` stands
    in `portfleet init`'s example, in use, and without it the key is there as a comment. ``unset`` says what holds if
    the key is left out and the model has no value for that. ``asks`` is None for a key that may be left out, otherwise
    the question that the operator has to answer ("" for none).
    """

    key: str
    kind: Kind
    brief: str
    effect: Effect
    example: str
    more: str = ""
    change: str = ""
    unset: str = ""
    shown: str = ""
    asks: str | None = None


class Table:
    """One table of fleet.toml: ``path`` as the reference names it, the ``model`` that it fills, and its keys."""

    def __init__(self, path: str, model: type, brief: str, settings: tuple[Setting, ...]) -> None:
        self.path, self.model, self.brief, self.settings = path, model, brief, settings

    def defaults(self) -> dict[str, Any]:
        """Return the values of keys that are left out; a key that the model must be given is not among them."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self.model):
            if field.default is not dataclasses.MISSING:
                found[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                found[field.name] = field.default_factory()
        return found

    def default(self, setting: Setting) -> str | None:
        """Return the default of a key as fleet.toml holds it; None if it has none that could be written there."""
        defaults = self.defaults()
        return None if setting.unset or setting.key not in defaults else setting.kind.toml(defaults[setting.key])
