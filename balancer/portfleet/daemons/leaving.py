"""Connections of one message of a hand-off on their way to another box: what becomes of them in this kernel."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from portfleet.core.errors import PortfleetError
from portfleet.core.frozen import Flow, Frozen, pack
from portfleet.daemons.parcels import Message, chosen, records
from portfleet.dataplane.relocation import Relocation
from portfleet.linux import tcp_repair
from portfleet.linux.tcp_repair import Position
from portfleet.store import faults

#: Seconds for which packets are held at most, by when the other box must have been told.
HELD, _TOLD = 5.0, 3.0
#: Seconds that a packet which has passed the hold may need to its socket.
_UNDER_WAY = 0.003
#: Bytes of queues in one batch: the daemons' protocol has 32 MiB for a message, with what they hold themselves.
_MOST = 1 << 24


class Stays(Exception):
    """Connections stay where they are; the text says why."""


class Leaving:
    """Connections by their place in ``message``: ``frozen`` are moving, ``others`` had moved before, the rest stays.

    ``staying`` counts those that can never move, by reason; the others that stay can in another batch. ``told``: the
    other box was told that they are its own.
    """

    def __init__(self, message: Message, descriptors: Iterable[int], relocation: Relocation) -> None:
        self.message, self._relocation = message, relocation
        self.sockets = [tcp_repair.borrowed(descriptor) for descriptor in descriptors]
        self.frozen: dict[int, Frozen] = {}
        self.others: dict[int, Flow | None] = {}
        self.staying: Counter[str] = Counter()
        self.told = False
        self._flows: dict[int, Flow] = {}
        self._positions: dict[int, Position] = {}
        self._began = 0.0

    def look(self) -> dict[int, Flow | None]:
        """Find out which can move; return those that a departure has silenced which ended behind that."""
        silent = {}
        for place, sock in enumerate(self.sockets):
            try:
                flow = self._relocation.flow(sock)
                if tcp_repair.is_silent(sock):
                    silent[place] = flow
                    continue
                upper = tcp_repair.upper_protocol(sock)
            except OSError as error:
                self.staying[f"its client is gone ({error.strerror})"] += 1
                continue
            if flow is None:
                self.staying["it does not come from another box by a listen address of the service"] += 1
            elif upper:
                self.staying[f"it has the upper protocol {upper}"] += 1
            else:
                self._flows[place] = flow
        return silent

    def sort(self, silent: Mapping[int, Flow | None], there: Sequence[bool]) -> None:
        """Take silenced ones as moved if they are ``there``; the others are this box's, and speak again."""
        for (place, flow), moved in zip(silent.items(), there, strict=True):
            if moved:
                self.others[place] = flow
                continue
            tcp_repair.speak(self.sockets[place])
            tcp_repair.hide_unread(self.sockets[place], hidden=False)
            if flow is None:
                self.staying["conntrack does not know it any more"] += 1
            else:
                self._relocation.take_back([flow])
                self._flows[place] = flow

    def freeze(self) -> bytes:
        """Hold the packets of those that can move, and dump them; return both halves' bytes. Raises PortfleetError."""
        self._began = time.monotonic()
        if self._flows:
            self._relocation.hold(list(self._flows.values()), seconds=HELD)
            faults.point("relocation held")
            time.sleep(_UNDER_WAY)
        size = 0
        for place, flow in self._flows.items():
            try:
                found, position = tcp_repair.dump(self.sockets[place], flow)
            except tcp_repair.NotMovable as error:
                self.staying[str(error)] += 1
                continue
            size += len(found.received) + len(found.sent) + len(found.unsent)
            if size > _MOST and self.frozen:
                continue  # in another batch
            self.frozen[place], self._positions[place] = found, position
        if self._flows:
            faults.point("relocation dumped")
        return pack(self.frozen.values())

    def hold_on(self) -> None:
        """Hold the packets for as long again. Raises PortfleetError."""
        if self._flows:
            self._relocation.prolong(list(self._flows.values()), seconds=HELD)

    def body(self) -> bytes:
        """Return the records of those that move."""
        return chosen(records(self.message.body, self.message.count), self.frozen)

    def silence(self, boxes: Mapping[str, str]) -> list[int]:
        """Silence them for good, to be sent on to ``boxes`` by family ("4", "6"); return which have gone on meanwhile.

        Those stay, by their number in what `freeze` has returned. Raises Stays, OSError, PortfleetError: call `resume`.
        """
        changed = []
        for number, (place, one) in enumerate(list(self.frozen.items())):
            if one.received:
                tcp_repair.hide_unread(self.sockets[place], hidden=True)
            tcp_repair.silence(self.sockets[place])
            if tcp_repair.position(self.sockets[place]) != self._positions[place]:
                changed.append(number)
                self._revive(place)
                del self.frozen[place]
        for family, box in boxes.items():
            if some := [flow for flow in self._moving() if str(flow.family) == family]:
                self._relocation.forward(some, box)
        faults.point("relocation silenced")
        if time.monotonic() - self._began > _TOLD:
            raise Stays("it took too long")
        return changed

    def resume(self) -> None:
        """Have all go on here; those that cannot are passed over, as nothing else is left to do for them."""
        with suppress(PortfleetError):
            if self.frozen:
                self._relocation.take_back(self._moving())
        for place in self.frozen:
            with suppress(OSError):
                self._revive(place)
        with suppress(PortfleetError):
            self._release()
        self.frozen, self._flows, self.told = {}, {}, False

    def leave(self) -> None:
        """Send packets on from now on: the other box has them. Raises PortfleetError."""
        self._release()
        gone = [*self._moving(), *filter(None, self.others.values())]
        if gone:
            self._relocation.dismiss(gone)

    def kept(self, places: Mapping[int, bool]) -> None:
        """Have those of ``places`` that are false go on here: they have not moved. Raises OSError, PortfleetError."""
        for place, moved in places.items():
            if not moved:
                self._relocation.take_back([self.frozen[place].flow])
                self._revive(place)
                del self.frozen[place]

    def stayed(self) -> tuple[list[int], bytes]:
        """Return descriptors and records of those that stay."""
        gone = {*self.frozen, *self.others}
        places = [place for place in range(self.message.count) if place not in gone]
        if not places:
            return [], b""
        body = chosen(records(self.message.body, self.message.count), places)
        return [self.sockets[place].fileno() for place in places], body

    def close(self) -> None:
        """Close this process's copies; of silenced ones nothing is sent."""
        for sock in self.sockets:
            sock.close()

    def _revive(self, place: int) -> None:
        tcp_repair.speak(self.sockets[place])
        if self.frozen[place].received:  # now, as the daemon may have it again, and reads what it is told of
            tcp_repair.hide_unread(self.sockets[place], hidden=False)

    def _moving(self) -> list[Flow]:
        return [one.flow for one in self.frozen.values()]

    def _release(self) -> None:
        released = [*self._flows.values(), *filter(None, self.others.values())]
        if released:
            self._relocation.release(released)
