"""A progress bar on a terminal, a line for each phase otherwise."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from portfleet.core.operations import Operation

_WIDTH = 24


class Bar:
    """Shows operations on ``file``: redrawn in place on a terminal, a line a phase elsewhere."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._terminal = file, file.isatty()
        self._phase = ""

    def show(self, operation: Operation) -> None:
        """Show how far ``operation`` is."""
        if self._terminal:
            print(f"\r\x1b[K{line(operation)}", end="", file=self._file, flush=True)
        elif operation.phase != self._phase:
            self._phase = operation.phase
            print(f"{operation.verb} {operation.service}: {operation.phase}", file=self._file, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self._terminal:
            print("\r\x1b[K", end="", file=self._file, flush=True)


def line(operation: Operation) -> str:
    """Return the bar of an operation as text."""
    words = f"{operation.verb} {operation.service}: {operation.phase}"
    if operation.total:
        filled = min(_WIDTH, _WIDTH * operation.done // operation.total)
        words += f"  [{'█' * filled}{'·' * (_WIDTH - filled)}] {operation.done:,}/{operation.total:,}"
    return words + (f"  {operation.note}" if operation.note else "")
