"""What tables in the code are written out as, run by script/docs.

The table of settings: docs/configuration.md and examples/fleet.toml. The table of conntrack's settings: a part of
docs/network.md and the sysctls that the package and the role share. The tables of metrics and of kinds of
events: parts of docs/metrics.md and docs/events.md.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from portfleet.config.example import example
from portfleet.config.settings import TABLES
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.kinds import KINDS
from portfleet.dataplane.nft.tracking import PREFIX, ROWS, Row
from portfleet.metrics.table import TABLE, Metric

TOP = Path(__file__).resolve().parents[2]

_HEAD = """\
# Configuration

<!-- Written by script/docs from balancer/portfleet/config/settings; changes here are overwritten. -->

Every key of `fleet.toml`. The same as a commented file: [examples/fleet.toml](../examples/fleet.toml), which `portfleet
init` prints. `portfleet check` names every problem at once, each with its path and what to do; it also looks at this
machine (commands, users, ports, limits). `portfleet check --schema` prints a JSON schema (draft 2020-12) for editors
and for programs that write the file.

- The file is [TOML](https://toml.io) in UTF-8. Unknown keys are errors.
- A duration is a number and a unit in quotes: `"500ms"`, `"30s"`, `"10m"`, `"1h"`, `"2d"`.
- In `command`, `directory` and `environment`, {port}, {instance}, {colour}, {release}, {control} and {service} are
  filled in for each instance.
- What runs is what was applied last. An edited file changes nothing until `portfleet apply`.
"""

_CHANGES = {
    Effect.AT_ONCE: "holds when `portfleet apply` returns. No process is restarted, established connections stay.",
    Effect.RESTART: "`portfleet apply` restarts the instances one at a time, without slots meanwhile. Connections are "
    "handed off to the other instances where the daemon can do that; otherwise they end.",
    Effect.CUTOVER: "`portfleet apply` leaves it as it is and says so; `portfleet cutover SERVICE` makes the change.",
    Effect.DOWN: "`portfleet down SERVICE`, then edit the file, then `portfleet up`. The service's connections end.",
}


def reference() -> str:
    """Return docs/configuration.md."""
    blocks = [_HEAD, "## What a change takes\n", *_effects()]
    for table in TABLES:
        blocks.append(f"## [{table.path}]\n")
        blocks.append(_wrapped(f"{_sentence(table.brief)}\n"))
        blocks += [_key(table, setting) for setting in table.settings]
    return "\n".join(blocks)


def _effects() -> Iterator[str]:
    for effect, words in _CHANGES.items():
        keys = ", ".join(f"`{_name(table, s.key)}`" for table in TABLES for s in table.settings if s.effect is effect)
        yield _wrapped(f"- **{_capital(effect.value)}**: {words} Keys: {keys}.", "  ")
    yield ""


def _name(table: Table, key: str) -> str:
    """Return a key as it is told apart from those of other tables: `drain.rate`, but `listen`."""
    prefix = table.path.removeprefix("service.NAME").removeprefix(".")
    return f"{prefix}.{key}" if prefix else key


def _key(table: Table, setting: Setting) -> str:
    kind, default = setting.kind, table.default(setting)
    unset = setting.unset if setting.asks is None else "none; it must be set"
    rows = [
        f"- Type: {kind.words}" + (f"; {kind.bounds}" if kind.bounds else ""),
        f"- Default: `{default}`" if default else f"- Default: {unset}",
        f"- Example: `{setting.key} = {setting.example}`",
        f"- A change takes: {setting.effect.value}" + (f"; {setting.change}" if setting.change else ""),
    ]
    words = " ".join(filter(None, (_sentence(setting.brief), setting.more)))
    return "\n".join(
        [f"### {_name(table, setting.key)}\n", _wrapped(words), "", *(_wrapped(r, "  ") for r in rows), ""]
    )


def _sentence(words: str) -> str:
    return _capital(words) + ("" if words.endswith(".") else ".")


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _wrapped(words: str, indent: str = "") -> str:
    end = "\n" * words.endswith("\n")
    return textwrap.fill(words, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) + end


_BEGIN, _STOP = "<!-- begin: written by script/docs -->\n", "<!-- end: written by script/docs -->\n"
_TRACKING = "templates/system/sysctl.conf"


def network() -> str:
    """Return docs/network.md with the table of conntrack's settings as the code has it."""
    head = f"| `{PREFIX}…` | role | kernel | counts while | must outlast |\n|---|---|---|---|---|\n"
    return _with_table("docs/network.md", head + "".join(map(_tracked, ROWS)))


def metrics() -> str:
    """Return docs/metrics.md with the table of metrics as the code has it."""
    head = "| metric | type | labels | what it is |\n|---|---|---|---|\n"
    parts = (f"### {about}\n\n{head}{''.join(map(_metric, found))}" for about, found in TABLE.items())
    return _with_table("docs/metrics.md", "\n".join(parts))


def _metric(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    when = f" (if {metric.when})" if metric.when and metric.when != "always" else ""
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.words}{when} |\n"


def events() -> str:
    """Return docs/events.md with the table of kinds as the code has it."""
    rows = [f"| `{name}` | {kind.level} | {kind.meaning} |\n" for name, kind in KINDS.items()]
    return _with_table("docs/events.md", "| kind | level | |\n|---|---|---|\n" + "".join(rows))


def _with_table(page: str, table: str) -> str:
    """Return a page with ``table`` in the place of the one that was written before."""
    before, _, rest = (TOP / page).read_text().partition(_BEGIN)
    _, _, after = rest.partition(_STOP)
    return before + _BEGIN + table + _STOP + after


def _tracked(row: Row) -> str:
    value = "any" if row.value is None else f"{row.value:,}"
    return f"| `{row.name}` | {value} | {row.default:,} | {row.holds} | {row.why} |\n"


def tracking() -> str:
    """Return the sysctls of conntrack, which the package and the role share."""
    lines = [
        "# Written by script/docs from balancer/portfleet/dataplane/nft/tracking.py. What each is for: docs/network.md"
    ]
    lines += [f"{row.sysctl} = {row.value}" for row in ROWS if row.value is not None]
    return "\n".join(lines) + "\n"


#: What is generated, by its path in the checkout.
FILES = {
    "docs/configuration.md": reference,
    "examples/fleet.toml": example,
    "docs/network.md": network,
    "docs/metrics.md": metrics,
    "docs/events.md": events,
    _TRACKING: tracking,
}


if __name__ == "__main__":
    for name, make in FILES.items():
        (TOP / name).write_text(make())
