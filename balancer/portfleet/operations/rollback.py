"""rollback: a cutover to the other colour, with the release it ran before, and the connections handed back."""

from portfleet.operations.cutover import run, undo

__all__ = ["run", "undo"]
