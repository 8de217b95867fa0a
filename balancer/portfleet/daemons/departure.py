"""The box that connections leave: takes them from a daemon, out of the kernel, and gives them to another box.

To the daemon this is the receiver of a hand-off (docs/handoff.md), so it needs no change. A batch moves in two phases:

1. packets are held, connections are dumped and go on at once (repair mode is left), the batch is sent; the other box
   restores all of them, silent, and says so;
2. they are silenced for good and compared with what was dumped; packets are sent on; then the other box is told. From
   that word on they are its own: it lets them speak and gives them to its daemon, and the copies here are closed.

Until then whatever fails leaves them with the daemon here, which did not get its acknowledgement; packets that are held
pass again after `_HELD` seconds if this process is gone. Silenced copies that come back to the daemon by such an end
after that word are the other box's: the daemon's next reading of one fails (EPERM), and a later departure closes it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portfleet.core import typed
from portfleet.core.errors import PortfleetError
from portfleet.core.frozen import Flow, Frozen, pack
from portfleet.core.printable import quantity
from portfleet.daemons import box_answers
from portfleet.daemons.answers import LONGEST, ControlError, agreed, read_done, read_hello
from portfleet.daemons.exchange import Control
from portfleet.daemons.handing import Handing, HandingFailed
from portfleet.daemons.parcels import CONNECTIONS, END, Message, chosen, records
from portfleet.daemons.talk import dial
from portfleet.dataplane.relocation import Relocation
from portfleet.linux import processes, tcp_repair, unix_socket
from portfleet.linux.lines import Lines, StreamEnded
from portfleet.store import faults

VERSION = 1
#: Seconds for which packets are held, for which a batch may take before it is given up, and for the other box's word.
_HELD, _BATCH = 5.0, 3.0
#: Seconds that a packet which has passed the hold may need to its socket.
_UNDER_WAY = 0.003
#: Seconds for the other box to begin: ssh and an interpreter have to start.
_MEETING = 30.0
#: Seconds for the daemon's call, requests in flight included.
_CALL = 10.0
_Position = tuple[int, int, int]


class Stays(Exception):
    """A batch stays where it is; the text says why."""


@dataclass
class Departed:
    """What came of it: how many ``moved``, how many ``stayed`` by reason, and ``why`` it ended early ("" if not)."""

    moved: int = 0
    stayed: Counter[str] = field(default_factory=Counter)
    why: str = ""


@dataclass
class _Batch:
    """Connections of one message, by their place in it; those in ``frozen`` can move, ``others`` have before."""

    message: Message
    sockets: list[socket.socket]
    flows: dict[int, Flow] = field(default_factory=dict)
    frozen: dict[int, Frozen] = field(default_factory=dict)
    positions: dict[int, _Position] = field(default_factory=dict)
    staying: Counter[str] = field(default_factory=Counter)
    others: set[int] = field(default_factory=set)


class Departure:
    """Moves connections of the daemon at ``place``; ``stream`` leads to the other box."""

    def __init__(
        self, place: Control, stream: Lines, relocation: Relocation, *, meeting: Path, stopped: Callable[[], bool]
    ) -> None:
        """``meeting``: a name for a socket, beside the daemon's own; ``stopped``: no further batch is to move."""
        self._place, self._stream, self._relocation = place, stream, relocation
        self._meeting, self._stopped = meeting, stopped
        self._hello: dict[str, Any] = {}
        self.result = Departed()

    def run(self, count: int, report: Callable[[Departed], None]) -> Departed:
        """Move ``count`` connections, as far as they can; ``report`` is called after each batch."""
        try:
            self._meet()
            handing = self._called(count)
        except (Stays, StreamEnded, HandingFailed, ControlError, OSError) as error:
            self.result.why = str(error)
            return self.result
        try:
            self._agree(handing)
            while (read := handing.read()) is not None:
                message, descriptors = read
                if message.kind == END:
                    handing.acknowledge(message)
                    break
                count -= len(descriptors)
                if message.kind != CONNECTIONS or not descriptors or count < 0:
                    raise HandingFailed("the daemon hands off what it was not asked for")
                self._move(handing, message, descriptors)
                report(self.result)
        except (Stays, StreamEnded, HandingFailed, PortfleetError, OSError) as error:
            self.result.why = str(error)
        finally:
            handing.close()
            self._control.close()
            with suppress(StreamEnded):
                self._stream.say({"end": True})
        return self.result

    def _meet(self) -> None:
        """Wait for the other box, before the daemon does: it gives up after five seconds. Raises Stays, StreamEnded."""
        if (speaks := self._stream.hear(seconds=_MEETING).get("relocate")) != VERSION:
            there = box_answers.shown(speaks)
            raise Stays(f"the other box speaks version {there} of relocations, this one {VERSION}")

    def _called(self, count: int) -> Handing:
        """Have the daemon hand off to this process; return the socket by which it does. Raises HandingFailed."""
        command = {"command": "handoff", "to": str(self._meeting), "count": count, "listener": False, "names": False}
        with self._listener() as listener:
            try:
                listener.settimeout(_CALL)
                self._control = dial(self._place)
                self._control.settimeout(_CALL)
                self._control.sendall(json.dumps(command | {"deadline": 5}).encode() + b"\n")
                ready = select.select([listener, self._control], [], [], _CALL)[0]
                if listener not in ready:
                    raise HandingFailed(_refusal(self._control) if ready else "the daemon does not hand off")
                called, _ = listener.accept()
            finally:
                self._meeting.unlink(missing_ok=True)
        if self._place.pid is None or not processes.within(unix_socket.peer(called), self._place.pid):
            called.close()
            raise HandingFailed("another process than the instance's has called")
        return Handing(called)

    def _listener(self) -> socket.socket:
        """Return what the daemon is to call: in its user's own directory (0700), otherwise for this user alone (0600).

        By umask, as a chmod(2) would follow a link that the user puts there.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._meeting.unlink(missing_ok=True)
        before = os.umask(0o177 if self._meeting.parent.stat().st_mode & 0o077 else 0)
        try:
            listener.bind(str(self._meeting))
            listener.listen(1)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(before)
        return listener

    def _agree(self, handing: Handing) -> None:
        self._hello = handing.hear(read_hello)
        self._stream.say({"receive": self._hello})
        try:
            found = agreed(self._stream.hear(seconds=_CALL))
        except ControlError as error:
            handing.say({"ok": False, "error": str(error), "hint": "see the other box"})
            raise Stays(f"the other box refuses: {error}") from None
        self._hello["versions"] = [found.version]
        handing.say({"ok": True, "version": found.version, "room": found.room})

    def _move(self, handing: Handing, message: Message, descriptors: Sequence[int]) -> None:
        batch = _Batch(message, [tcp_repair.borrowed(descriptor) for descriptor in descriptors])
        try:
            if self._stopped():
                raise Stays("stopped")
            self._look(batch)
            if batch.flows:
                self._hand_over(batch)
            self._give_back(batch)
            handing.acknowledge(message)
        except (Stays, StreamEnded, PortfleetError, OSError) as error:
            with suppress(OSError):
                handing.refuse(message, str(error))
            raise
        finally:
            for sock in batch.sockets:
                sock.close()
        self.result.moved += len(batch.frozen) + len(batch.others)
        self.result.stayed = batch.staying + self.result.stayed

    def _look(self, batch: _Batch) -> None:
        for place, sock in enumerate(batch.sockets):
            if tcp_repair.is_silent(sock):  # by an earlier departure, which died behind its word
                batch.others.add(place)
                continue
            try:
                why = tcp_repair.state_problem(sock)
                flow = None if why else self._relocation.flow(*tcp_repair.ends(sock))
            except OSError as error:
                why, flow = f"its client is gone ({error.strerror})", None
            if flow is not None:
                batch.flows[place] = flow
            else:
                batch.staying[why or "it does not come from another box by a listen address of the service"] += 1

    def _hand_over(self, batch: _Batch) -> None:
        began, held = time.monotonic(), list(batch.flows.values())
        try:
            self._relocation.hold(held, seconds=_HELD)
            faults.point("relocation held")
            time.sleep(_UNDER_WAY)
            self._dump(batch)
            faults.point("relocation dumped")
            if not batch.frozen:
                raise Stays(", ".join(batch.staying))
            boxes = self._prepared(batch)
            faults.point("relocation prepared")
            self._commit(batch, boxes, began)
        except BaseException:
            with suppress(PortfleetError):
                self._relocation.release(held)
            raise
        faults.point("relocation committed")
        stays = [flow for place, flow in batch.flows.items() if place not in batch.frozen]
        if stays:
            self._relocation.release(stays)
        answer = self._stream.hear(seconds=_CALL)
        if answer.get("done") != len(batch.frozen):
            self.result.why = f"the other box lost connections: {box_answers.shown(answer.get('failed', answer))}"

    def _dump(self, batch: _Batch) -> None:
        for place, flow in batch.flows.items():
            try:
                batch.frozen[place], batch.positions[place] = tcp_repair.dump(batch.sockets[place], flow)
            except tcp_repair.NotMovable as error:
                batch.staying[str(error)] += 1

    def _prepared(self, batch: _Batch) -> Mapping[str, str]:
        """Send the batch; return the other box's address by family ("4", "6"). Raises Stays, StreamEnded."""
        found = records(batch.message.body, batch.message.count)
        body = pack(chosen(found, batch.frozen))
        self._stream.say({"batch": [typed.write(one) for one in batch.frozen.values()], "records": body})
        answer = self._stream.hear(seconds=_BATCH)
        boxes = box_answers.prepared(answer, {one.flow.family for one in batch.frozen.values()})
        why = boxes if isinstance(boxes, str) else "".join(filter(None, map(self._relocation.reach, boxes.values())))
        if isinstance(boxes, str) or why:
            self._stream.say({"abandon": why})
            raise Stays(why)
        return boxes

    def _commit(self, batch: _Batch, boxes: Mapping[str, str], began: float) -> None:
        sockets = {place: batch.sockets[place] for place in batch.frozen}
        try:
            for sock in sockets.values():
                tcp_repair.silence(sock)
            changed = sum(tcp_repair.position(sock) != batch.positions[place] for place, sock in sockets.items())
            late = time.monotonic() - began > _BATCH
            if changed or late:
                raise Stays("it took too long" if late else f"{quantity(changed, 'connection')} went on meanwhile")
            for family, box in boxes.items():
                self._relocation.forward([f.flow for f in batch.frozen.values() if str(f.flow.family) == family], box)
            self._stream.say({"commit": True})
        except BaseException:
            with suppress(PortfleetError):
                self._relocation.take_back([one.flow for one in batch.frozen.values()])
            for sock in sockets.values():
                with suppress(OSError):
                    tcp_repair.speak(sock)
            with suppress(StreamEnded):
                self._stream.say({"abandon": "given up there"})
            raise

    def _give_back(self, batch: _Batch) -> None:
        """Give the daemon those that cannot move, as a sender does: it has them twice until its message is answered."""
        places = [place for place in range(batch.message.count) if place not in {*batch.frozen, *batch.others}]
        if not places:
            return
        found = records(batch.message.body, batch.message.count)
        back = Handing.to(self._place, self._hello)
        back.pass_on([batch.sockets[place].fileno() for place in places], chosen(found, places))
        back.end()


def _refusal(control: socket.socket) -> str:
    """Return what a daemon says that does not begin a hand-off."""
    try:
        read_done(control.recv(LONGEST).partition(b"\n")[0])
    except ControlError as error:
        return f"the daemon refuses: {error}"
    return "the daemon does not hand off"
