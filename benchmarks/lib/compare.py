"""What got better or worse between two result files of the same benchmark, beyond the noise of their rounds.

A value that was measured in rounds is a list of numbers, or a list of tables of numbers. Two lists differ beyond the
noise when no round of the one is within the range of the other, and each has four rounds: by chance that happens in
fewer than 3 of 100 cases (2 of the 70 ways to deal eight values out). A value beside a reference of the same round is
a ratio to it, which another machine or another minute does not change; other values are told as what they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROUNDS = 4
#: Words in a value's name that tell that more is better; of all others less is.
_MORE = ("per_s", "rps", "rate", "per_second")
#: Parts of a result that are no findings.
_NO = {"environment", "connections", "active", "processes", "count", "timeout_s", "rounds_number"}


@dataclass(frozen=True)
class Change:
    """One value whose rounds differ: medians, and whether that is better. ``ratio``: it is one to a reference."""

    name: str
    old: float
    new: float
    ratio: bool

    @property
    def better(self) -> bool:
        """Return whether it got better."""
        more = any(word in self.name.rpartition(".")[2] for word in _MORE)
        return (self.new > self.old) == more


def series(result: Any, name: str = "") -> Iterator[tuple[str, list[float], bool]]:
    """Yield (name, the rounds' values, whether they are ratios) of everything that was measured in rounds."""
    if isinstance(result, dict):
        for key, value in result.items():
            if key not in _NO:
                yield from series(value, f"{name}.{key}" if name else key)
    elif isinstance(result, list) and len(result) > 1:
        if all(_is_number(one) for one in result):
            yield name, [float(one) for one in result], "ratio" in name.rpartition(".")[2]
        elif all(isinstance(one, dict) for one in result):
            yield from _tables(result, name)


def _tables(rounds: list[dict[str, Any]], name: str) -> Iterator[tuple[str, list[float], bool]]:
    """Yield the values of rounds that are tables; of a design beside a reference their ratios too."""
    keys = rounds[0].keys() - _NO
    for key in sorted(keys):
        values = [one.get(key) for one in rounds]
        if all(_is_number(value) for value in values):
            yield f"{name}.{key}", [float(value) for value in values if value is not None], "ratio" in key
        elif all(isinstance(value, dict) for value in values) and key != "reference":
            tables = [value for value in values if value]
            if tables:
                yield from _tables(tables, f"{name}.{key}")
            if "reference" in keys:
                yield from _ratios(tables, [one["reference"] for one in rounds], f"{name}.{key}")


def _ratios(
    tables: list[dict[str, Any]], beside: list[dict[str, Any]], name: str
) -> Iterator[tuple[str, list[float], bool]]:
    for key in sorted(tables[0].keys() & beside[0].keys()):
        pairs = [(one[key], base[key]) for one, base in zip(tables, beside, strict=True)]
        if all(_is_number(one) and _is_number(base) and base for one, base in pairs):
            yield f"{name}.{key} / reference", [one / base for one, base in pairs], True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare(old: Any, new: Any) -> tuple[list[Change], int, int]:
    """Return the changes beyond the noise, the number of values compared, and of those with too few rounds to tell."""
    before = {name: values for name, values, _ in series(old)}
    changes, compared, few = [], 0, 0
    for name, values, ratio in series(new):
        earlier = before.get(name)
        if earlier is None:
            continue
        if min(len(earlier), len(values)) < ROUNDS:
            few += 1
            continue
        compared += 1
        if max(earlier) < min(values) or max(values) < min(earlier):
            changes.append(Change(name, median(earlier), median(values), ratio))
    return changes, compared, few


def _places(result: Any) -> Iterator[tuple[str, str]]:
    """Yield (CPU, kernel) of every part of a result."""
    if isinstance(result, dict):
        if "cpu" in result and "kernel" in result:
            yield result["cpu"], result["kernel"]
        for value in result.values():
            yield from _places(value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench --compare", description=__doc__)
    parser.add_argument("old", type=Path, help="a result file")
    parser.add_argument("new", type=Path, help="another of the same benchmark")
    options = parser.parse_args()
    try:
        old, new = (json.loads(path.read_text()) for path in (options.old, options.new))
    except (OSError, ValueError) as error:
        print(f"error: {error}\nhint: script/bench --compare OLD.json NEW.json", file=sys.stderr)
        return 2
    changes, compared, few = compare(old, new)
    for change in sorted(changes, key=lambda one: (one.better, not one.ratio, one.name)):
        by = f"{change.new / change.old - 1:+.1%}" if change.old else ""
        kind = "" if change.ratio else "  (no ratio)"
        verdict = "better" if change.better else "WORSE "
        print(f"{verdict} {change.name}: {change.old:,.4g} → {change.new:,.4g} {by}{kind}")
    print(f"{compared} values with {ROUNDS} rounds or more: {len(changes)} differ beyond the noise; {few} have fewer")
    if set(_places(old)) != set(_places(new)):
        print("measured on different processors or kernels: only ratios can be compared")
    return int(any(not change.better and change.ratio for change in changes))


if __name__ == "__main__":
    sys.exit(main())
