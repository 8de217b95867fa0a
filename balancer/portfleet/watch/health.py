"""Fall and rise: how many probes in a row make an instance fail, and how many bring it back. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Health:
    """Counts probes of one instance. ``healthy`` flips after ``fall`` failures or ``rise`` successes in a row."""

    fall: int
    rise: int
    healthy: bool = True
    streak: int = 0
    reason: str = ""

    def note(self, trouble: str) -> bool:
        """Take one result ("" is a success); True when ``healthy`` has just flipped."""
        if bool(trouble) != self.healthy:
            self.streak = 0
            return False
        self.streak += 1
        self.reason = trouble
        if self.streak < (self.fall if self.healthy else self.rise):
            return False
        self.healthy, self.streak = not self.healthy, 0
        return True


def all_out(serving: set[str], out: set[str], falling: str) -> bool:
    """Return whether ``falling`` is the last of ``serving`` that is not out yet: ejecting it would leave none."""
    return not serving - out - {falling}
