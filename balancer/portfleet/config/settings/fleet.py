"""[fleet]: what holds for all services."""

from __future__ import annotations

from typing import get_args

from portfleet.config.containers import Words
from portfleet.config.kinds import Choice, Number
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.model import DataPlaneName, Drift, Fleet

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
        Setting(
            "dataplane",
            Choice(get_args(DataPlaneName)),
            'what carries connections: "nftables" in the kernel, as root, or "haproxy", as any user',
            Effect.DOWN,
            '"haproxy"',
            more="[haproxy.md](haproxy.md) says when to take which, and what differs.",
        ),
        Setting(
            "haproxy_processes",
            Number(1, 64),
            "how many HAProxy processes share the clients; one that ends takes its share of the connections along",
            Effect.DOWN,
            "4",
        ),
        Setting(
            "on_event",
            Words(),
            "a command that gets each event as JSON on its standard input, for mails and alarms",
            Effect.AT_ONCE,
            '["/usr/local/bin/portfleet-alarm"]',
            more="Run by the user `nobody` if the fleet is root's, otherwise by the fleet's user; one at a time, for "
            "ten seconds at most. [events.md](events.md#a-command-for-each-event) has examples.",
            unset="none; nothing is run",
        ),
    ),
)
