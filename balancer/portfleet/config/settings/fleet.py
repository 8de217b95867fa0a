"""[fleet]: what holds for all services."""

from __future__ import annotations

from typing import get_args

from portfleet.config.kinds import Choice
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.model import Drift, Fleet

FLEET = Table(
    "fleet",
    Fleet,
    "what holds for all services",
    (
        Setting(
            "drift",
            Choice(get_args(Drift)),
            'when the rules in the kernel were changed by others: "repair" or "report"',
            Effect.AT_ONCE,
            '"report"',
            more='With "report" the watcher only logs the change; `portfleet plan` shows it and `portfleet apply` '
            "repairs it. A table that was deleted is put back either way.",
        ),
    ),
)
