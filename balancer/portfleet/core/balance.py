"""How evenly connections are spread over instances, and which hand-off evens them out next."""

from __future__ import annotations

from collections.abc import Mapping


def in_words(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Say how the connections were and are spread."""
    each = ", ".join(f"{name} {count:,} → {after[name]:,}" for name, count in before.items())
    return f"max/mean {ratio(before):.2f} → {ratio(after):.2f} ({each})"


def ratio(counts: Mapping[str, int]) -> float:
    """Return max/mean; 1 if there are no connections."""
    total = sum(counts.values())
    return max(counts.values()) * len(counts) / total if total else 1.0


def next_move(counts: Mapping[str, int], *, limit: float) -> tuple[str, str, int] | None:
    """Return the next hand-off (sender, receiver, how many), None if the limit is kept or cannot be kept better."""
    if len(counts) < 2 or ratio(counts) <= limit:
        return None
    mean = sum(counts.values()) / len(counts)
    sender = max(counts, key=lambda name: counts[name])
    receiver = min(counts, key=lambda name: counts[name])
    count = int(min(counts[sender] - mean, mean - counts[receiver]))
    return (sender, receiver, count) if count > 0 else None
