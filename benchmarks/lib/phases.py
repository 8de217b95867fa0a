"""When the phases of an operation began and ended, by the fleet's events."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

_BEGINS, _ENDS = ("operation-begun", "operation-resumed"), ("operation-ended", "operation-failed")


@dataclass(frozen=True)
class Phase:
    """One phase, in monotonic seconds as events have them: to the millisecond."""

    name: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


def phases_of(events: Iterable[str]) -> list[Phase]:
    """Return the phases of the last operation by lines of events.jsonl; the first is called `accepted`.

    Raises LookupError if no operation has ended.
    """
    ahead = time.time() - time.monotonic()
    found: list[tuple[str, float]] = []
    for line in events:
        event = json.loads(line)
        at = datetime.fromisoformat(event["time"]).timestamp() - ahead
        if event["kind"] in _BEGINS:
            found = [("accepted", at)]
        elif event["kind"] == "operation-phase":
            found.append((event["phase"], at))
        elif event["kind"] in _ENDS:
            found.append(("", at))
    if len(found) < 2:
        raise LookupError("no operation has ended")
    return [Phase(name, began, ended) for (name, began), (_, ended) in pairwise(found)]
