"""[metrics]: the process that tells the fleet's figures to a machine (Prometheus) and to people (the page)."""

from __future__ import annotations

from portfleet.config.kinds import Parsed, Text
from portfleet.config.reader import parse_listen
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.model import Metrics

METRICS = Table(
    "metrics",
    Metrics,
    "figures for Prometheus and a page for people, by a process of its own",
    (
        Setting(
            "listen",
            Parsed(
                parse_listen,
                pattern=r"([0-9.]*|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}",
                says='"127.0.0.1:PORT", "[::1]:PORT", ":PORT" or another address of this box with a port',
                hint='for example listen = "127.0.0.1:9797"',
            ),
            "where /metrics and the page are served",
            Effect.AT_ONCE,
            '"127.0.0.1:9797"',
            more="Whoever reaches it can read everything on it, and no password is asked: keep it to the loopback "
            "address, or to a network whose hosts may know. See [metrics.md](metrics.md).",
            change="the process of the metrics is started again",
            unset="there is no such process",
        ),
        Setting(
            "user",
            Text(),
            "who that process runs as (needs root)",
            Effect.AT_ONCE,
            '"portfleet-metrics"',
            change="the process of the metrics is started again",
            unset="the user `nobody`, or the one whose fleet it is if that is not root",
        ),
    ),
)
