"""1, 3, 10 and 100 boxes with 10 million connections, on paper: what each holds, what moves, what the network carries.

Seeded, seconds, no root and no network. Prints its tables, writes benchmarks/results/scale-boxes.json and the tables of
docs/scale-out.md, where a test compares both with what comes out now. The arithmetic is in model.py.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.scale.model import BOXES, RATES, SLOTS, box, loss, network, spread

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks/results/scale-boxes.json"
PAGE = ROOT / "docs/scale-out.md"
SEED = 20_000


def results() -> dict[str, list[dict[str, Any]]]:
    """Return what the model says, as JSON values, numbers with four significant digits."""
    found = {
        "boxes": [asdict(box(boxes)) for boxes in BOXES],
        "spread": [asdict(spread(boxes, slots, seed=SEED)) for boxes in BOXES for slots in SLOTS],
        "loss": [asdict(lost) for boxes in BOXES if (lost := loss(boxes, SLOTS[0]))],
        "network": [asdict(network(boxes)) for boxes in BOXES],
    }
    rounded: dict[str, list[dict[str, Any]]] = json.loads(json.dumps(found), parse_float=_rounded)
    return rounded


def tables(found: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Return the tables of the page by name, as Markdown."""
    return {
        "boxes": _table(
            ["boxes", "connections each", "kernel memory each", "of what one is built for",
             *(f"to empty one at {rate:,}/s" for rate in RATES.values())],
            ([f"{row['boxes']}", f"{row['connections']:,}", f"{row['gigabytes']:.2f} GB", f"{row['times']:.1f} ×",
              *(_duration(row["evacuation"].get(name)) for name in RATES)] for row in found["boxes"]),
        ),
        "spread": _table(
            ["boxes", "slots", "slots a box", "fullest over mean, even clients", "uneven clients"],
            ([f"{row['boxes']}", f"{row['slots']:,}", _range(row["fewest"], row["most"]), f"{row['even']:.3f}",
              f"{row['uneven']:.2f}"] for row in found["spread"]),
        ),
        "loss": _table(
            ["boxes", "the lost box's", "of the others: slots", "of the others: Maglev", "of the others: modulo"],
            ([f"{row['boxes']}", *(f"{100 * row[key]:.2f} %" for key in
              ("own", "others", "maglev_others", "modulo_others"))] for row in found["loss"]),
        ),
        "network": _table(
            ["boxes", "share that is forwarded", "packets/s a box forwards", "Mbit/s in, and again out"],
            ([f"{row['boxes']}", f"{100 * row['share']:.1f} %", f"{row['packets']:,.0f}", f"{row['megabits']:,.0f}"]
             for row in found["network"]),
        ),
    }  # fmt: skip


def page(text: str, made: dict[str, str]) -> str:
    """Return the page ``text`` with the tables ``made`` in the places of the earlier ones."""
    for name, table in made.items():
        begin, end = f"<!-- begin {name}: written by script/bench scale/boxes -->\n", f"<!-- end {name} -->\n"
        before, found, rest = text.partition(begin)
        assert found, f"{PAGE.name} has no place for {name}"
        text = before + begin + table + end + rest.partition(end)[2]
    return text


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = results()
    made = tables(found)
    print("\n".join(made.values()))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), made))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rounded(text: str) -> float:
    return float(f"{float(text):.4g}")


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} or {high:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
