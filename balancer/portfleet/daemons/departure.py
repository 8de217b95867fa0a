"""The box that connections leave: takes them from a daemon, out of the kernel, and gives them to another box.

To the daemon this is the receiver of a hand-off (docs/handoff.md), so it needs no change. A batch moves in two phases:

1. packets are held, connections are dumped and go on at once (repair mode is left), the batch is sent; the other box
   restores all of them, silent, and says so;
2. they are silenced for good and compared with what was dumped; then the other box is told. From that word on they are
   its own: it lets them speak and gives them to its daemon, and says so. Only then packets are sent on, and the copies
   here are closed.

Two batches are on their way at a time, so that neither box waits for the other. Until the word whatever fails leaves
connections with the daemon here, which did not get its acknowledgement; packets that are held pass again after `HELD`
seconds if this process is gone. After the word, without an answer, the other box is asked anew which it has: by this
process, or if that has ended by the next one, which finds the connections silenced.
"""

from __future__ import annotations

import base64
import select
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portfleet.core.errors import PortfleetError
from portfleet.core.frozen import Flow
from portfleet.daemons import box_answers
from portfleet.daemons.answers import ControlError, agreed, read_hello
from portfleet.daemons.calling import called
from portfleet.daemons.exchange import Control
from portfleet.daemons.handing import Handing, HandingFailed
from portfleet.daemons.leaving import Leaving, Stays
from portfleet.daemons.parcels import CONNECTIONS, END
from portfleet.dataplane.relocation import Relocation
from portfleet.linux.lines import Lines, StreamEnded
from portfleet.store import faults

#: Seconds for the other box to restore a batch, and to take it over after the word.
_BATCH, _TAKEN = 3.0, 10.0
#: Seconds for the other box to begin: ssh and an interpreter have to start; and when it is asked which it has.
_MEETING, _ASKED = 30.0, 4.0
#: Seconds after which what is held is held for longer.
_PROLONGED = 2.0
#: Batches on their way at a time: as many as a daemon sends before the first is acknowledged.
_AT_ONCE = 2


@dataclass
class Departed:
    """What came of it: how many ``moved``, how many ``stayed`` by reason, and ``why`` it ended early ("" if not).

    ``seconds``: from the daemon's first connections to the other box's last word.
    """

    moved: int = 0
    seconds: float = 0.0
    stayed: Counter[str] = field(default_factory=Counter)
    why: str = ""


_FAILURES = (Stays, StreamEnded, HandingFailed, ControlError, PortfleetError, OSError)


class Departure:
    """Moves connections of the daemon at ``place``; ``reach`` returns a stream that leads to the other box."""

    def __init__(
        self,
        place: Control,
        reach: Callable[[], Lines],
        relocation: Relocation,
        *,
        meeting: Path,
        stopped: Callable[[], bool],
    ) -> None:
        """``meeting``: a name for a socket, beside the daemon's own; ``stopped``: no further batch is to move."""
        self._place, self._reach, self._relocation = place, reach, relocation
        self._meeting, self._stopped = meeting, stopped
        self._hello: dict[str, Any] = {}
        self._flying: deque[Leaving] = deque()
        self._giving_up = False
        self.result = Departed()

    def run(self, count: int, report: Callable[[Departed], None]) -> Departed:
        """Move ``count`` connections, as far as they can; ``report`` is called after each batch."""
        try:
            self._stream = self._met(_MEETING)
            handing, control = called(self._place, self._meeting, count)
        except _FAILURES as error:
            self.result.why = str(error)
            return self.result
        try:
            self._agree(handing)
            began = time.monotonic()
            self._move_all(handing, count, report)
            self.result.seconds = time.monotonic() - began
        except _FAILURES as error:
            self.result.why = str(error)
            with suppress(*_FAILURES):
                self._give_up(handing, str(error))
        finally:
            for batch in self._flying:
                batch.close()
            handing.close()
            control.close()
            with suppress(StreamEnded):
                self._stream.say({"end": True})
        return self.result

    def _met(self, seconds: float) -> Lines:
        """Return a stream to the other box, which has said that it understands. Raises Stays, StreamEnded, OSError."""
        stream = self._reach()
        if (speaks := stream.hear(seconds=seconds).get("relocate")) != box_answers.VERSION:
            there = box_answers.shown(speaks)
            raise Stays(f"the other box speaks version {there} of relocations, this one {box_answers.VERSION}")
        return stream

    def _agree(self, handing: Handing) -> None:
        self._hello = handing.hear(read_hello)
        self._stream.say({"receive": self._hello})
        try:
            found = agreed(self._stream.hear(seconds=_TAKEN))
        except ControlError as error:
            with suppress(OSError):  # the daemon may have waited for too long
                handing.say({"ok": False, "error": str(error), "hint": "see the other box"})
            raise Stays(f"the other box refuses: {error}") from None
        self._hello["versions"] = [found.version]
        handing.say({"ok": True, "version": found.version, "room": found.room})

    def _move_all(self, handing: Handing, count: int, report: Callable[[Departed], None]) -> None:
        more = True
        while more or self._flying:
            if not (more and len(self._flying) < _AT_ONCE and self._daemon_is_next(handing)):
                self._hear(handing, report)
                continue
            if self._stopped():
                self.result.why, more = "stopped", False
                continue
            read = handing.read()
            more = read is not None and read[0].kind != END
            if read is None or read[0].kind == END:
                if read is not None:
                    handing.acknowledge(read[0])
                continue
            message, descriptors = read
            batch = Leaving(message, descriptors, self._relocation)
            self._flying.append(batch)
            count -= len(descriptors)
            if message.kind != CONNECTIONS or not descriptors or count < 0:
                raise HandingFailed("the daemon hands off what it was not asked for")
            self._send(handing, batch, report)

    def _daemon_is_next(self, handing: Handing) -> bool:
        """Return whether the next word is the daemon's, with one of the other box before it."""
        if not self._flying:
            return True
        if self._stream.waits:
            return False
        daemon, other = handing.fileno(), self._stream.fileno()
        return select.select([daemon, other], [], [], _BATCH)[0] == [daemon]

    def _send(self, handing: Handing, batch: Leaving, report: Callable[[Departed], None]) -> None:
        if silent := batch.look():
            while len(self._flying) > 1:
                self._hear(handing, report)
            batch.sort(silent, self._known(list(silent.values()), _TAKEN))
        frozen = base64.b64encode(batch.freeze()).decode()
        self._stream.say({"batch": frozen, "records": base64.b64encode(batch.body()).decode()})

    def _known(self, flows: Sequence[Flow | None], seconds: float) -> list[bool]:
        """Return which of ``flows`` the other box's daemon has. Raises StreamEnded."""
        self._stream.say({"known": [[flow.client.hex(), flow.client_port] if flow else None for flow in flows]})
        return box_answers.known(self._stream.hear(seconds=seconds), len(flows))

    def _hear(self, handing: Handing, report: Callable[[Departed], None]) -> None:
        """Take the other box's next word: it has prepared the first batch it was not told of, or has the oldest."""
        told = next((batch for batch in self._flying if batch.told), None)
        answer = self._answer(_TAKEN if told else _BATCH)
        if "prepared" in answer or "refused" in answer:
            sent = next((batch for batch in self._flying if not batch.told), None)
            if sent is None:
                raise StreamEnded("the other box has prepared what it was not sent")
            if not self._giving_up:
                self._tell(handing, sent, answer)
            return
        if told is None:
            raise StreamEnded(f"the other box says what it was not asked: {box_answers.shown(answer)}")
        if answer.get("done") != len(told.frozen):
            told.resume()
            raise Stays(f"the other box has not taken them: {box_answers.shown(answer.get('failed', answer))}")
        self._finish(handing, told)
        report(self.result)

    def _answer(self, seconds: float) -> dict[str, Any]:
        """Return the other box's next word; while it is waited for, what is held stays so. Raises StreamEnded."""
        deadline = time.monotonic() + seconds
        while not self._stream.waits and deadline - time.monotonic() > _PROLONGED:
            if select.select([self._stream], [], [], _PROLONGED)[0]:
                break
            for batch in self._flying:
                batch.hold_on()
        return self._stream.hear(seconds=max(0.0, deadline - time.monotonic()))

    def _tell(self, handing: Handing, batch: Leaving, answer: Mapping[str, Any]) -> None:
        """Let go of a batch that the other box has prepared. Raises Stays if it has not, OSError without the daemon."""
        boxes = box_answers.prepared(answer, {one.flow.family for one in batch.frozen.values()})
        why = boxes if isinstance(boxes, str) else "".join(filter(None, map(self._relocation.reach, boxes.values())))
        if isinstance(boxes, str) or why:
            raise Stays(why)
        faults.point("relocation prepared")
        handing.sock.send(b"")  # a daemon that has waited for too long, and serves them again, reads no more (EPIPE)
        without = batch.silence(boxes)
        self._stream.say({"commit": True, "without": without})
        batch.told = True
        faults.point("relocation committed")

    def _finish(self, handing: Handing, batch: Leaving) -> None:
        """Close what the other box has, and give the daemon back what stays."""
        batch.leave()
        if batch is not self._flying[0]:
            return  # it cannot be acknowledged before the one before: the next departure finds it silenced
        self.result.moved += len(batch.frozen) + len(batch.others)
        self.result.stayed = batch.staying + self.result.stayed
        self._give_back(batch)
        handing.acknowledge(batch.message)
        self._flying.popleft()
        batch.close()

    def _give_up(self, handing: Handing, why: str) -> None:
        """Leave with the daemon what the other box was not told of, and find out about what it was told of."""
        self._giving_up = True
        for batch in self._flying:
            if not batch.told:
                batch.resume()
        try:
            self._stream.say({"abandon": why})
            while any(batch.told for batch in self._flying):
                self._hear(handing, lambda _: None)
        except _FAILURES:
            self._settle(handing)
        if self._flying:
            handing.refuse(self._flying[0].message, why)

    def _settle(self, handing: Handing) -> None:
        """Find out by a new stream which the other box has of those it never answered for; raises as `_met` does."""
        told = [batch for batch in self._flying if batch.told]
        if told:
            self._stream = self._met(_ASKED)
        for batch in told:
            flows = [one.flow for one in batch.frozen.values()]
            batch.kept(dict(zip(list(batch.frozen), self._known(flows, _ASKED), strict=True)))
            self._finish(handing, batch)

    def _give_back(self, batch: Leaving) -> None:
        """Give the daemon those that cannot move, as a sender does: it has them twice until its message is answered."""
        descriptors, body = batch.stayed()
        if descriptors:
            back = Handing.to(self._place, self._hello)
            back.pass_on(descriptors, body)
            back.end()
