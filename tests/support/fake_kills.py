"""Operations whose watcher is killed, or which are cancelled, at each point that they pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from portfleet.core.journal import HistoryEntry
from portfleet.core.operations import VERBS
from support.fake_operated import Box

#: Makes the same box again and again, as it is before the operation.
Make = Callable[[], Box]


def points(make: Make, *words: str, files: bool = False) -> list[str]:
    """Return the points that an operation passes in the watcher, in order; with those around each file if ``files``."""
    box = make()
    box.command(*words)
    box.points.clear()
    assert box.finish().ok, box.journal.history
    return [name for name in box.points if files or name.partition(" ")[0] in VERBS]


def killed_at_each(make: Make, *words: str, files: bool = False) -> Iterator[tuple[str, Box, HistoryEntry]]:
    """Kill the watcher at one point after the other, and yield each with the box and what came of it in the end."""
    for number, name in enumerate(points(make, *words, files=files)):
        box = make()
        box.command(*words)
        box.at = _once(box, number, files=files)
        yield name, box, box.finish()
        assert box.generation == 1, name


def _once(box: Box, number: int, *, files: bool) -> Callable[[str], None]:
    """Return what kills the watcher of ``box`` at its point ``number`` (from 0), and no other after it."""
    left = [number]

    def at(name: str) -> None:
        if not files and name.partition(" ")[0] not in VERBS:
            return
        left[0] -= 1
        if left[0] == -1:
            box.kill()

    return at


def cancelled_at(make: Make, point: str, *words: str) -> tuple[Box, HistoryEntry]:
    """Cancel an operation when it passes ``point``; return the box and what came of it."""
    box = make()
    box.command(*words)

    def at(name: str) -> None:
        if name == point:
            box.at = lambda _: None
            box.command("cancel", "echo")

    box.at = at
    entry = box.finish()
    assert point in box.points, box.points
    return box, entry


def undisturbed(make: Make, *words: str) -> Box:
    """Return the box after an operation that nothing came in the way of."""
    box = make()
    assert box.operate(*words).ok
    return box


def same(box: Box, other: Box) -> bool:
    """Return whether clients and operators find the same in two boxes."""
    return (
        (box.slots(), box.processes(), box.wanted(), sum(box.connections().values()))
        == (other.slots(), other.processes(), other.wanted(), sum(other.connections().values()))
    )  # fmt: skip
