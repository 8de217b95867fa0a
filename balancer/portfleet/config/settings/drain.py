"""[service.NAME.drain]: what happens to established connections."""

from __future__ import annotations

from typing import get_args

from portfleet.config.kinds import Choice, Duration, Number
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.policies import Drain, Then

DRAIN = Table(
    "service.NAME.drain",
    Drain,
    "what happens to established connections of a drained instance",
    (
        Setting(
            "rate",
            Number(1, 1_000_000),
            "connections closed per second and service",
            Effect.AT_ONCE,
            "200",
            more="It is for operations that cannot hand connections off; `portfleet drain` and `maint` have --rate. "
            "Left out, they close none before the deadline.",
            unset="none is closed before the deadline; then, if `then` says so, 500 a second",
        ),
        Setting(
            "deadline",
            Duration(),
            "how long connections may go on; then comes `then`",
            Effect.AT_ONCE,
            '"30m"',
        ),
        Setting(
            "then",
            Choice(get_args(Then)),
            'at the deadline: "wait" on, "evict" at the rate, or "kill" what is left',
            Effect.AT_ONCE,
            '"evict"',
            more='"kill" closes all connections at once, and ends a daemon of ours that does not answer.',
        ),
    ),
)
