"""The box that connections come to: restores them silent, and lets them speak once the other box has let go of them.

To the daemon this is the sender of a hand-off (docs/handoff.md). What is restored and not committed is closed without a
word to the client, whatever ends the stream; so is what the daemon does not take, and the other box goes on with it.
"""

from __future__ import annotations

import base64
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from portfleet.core.errors import PortfleetError
from portfleet.core.frozen import Flow, unpack
from portfleet.core.printable import quantity
from portfleet.daemons import box_answers
from portfleet.daemons.copies import Copies
from portfleet.daemons.exchange import Control
from portfleet.daemons.handing import Handing, HandingFailed
from portfleet.daemons.parcels import Improper, records, with_unsent
from portfleet.dataplane.relocation import Relocation
from portfleet.linux import sockdiag, tcp_repair
from portfleet.linux.lines import Lines, StreamEnded
from portfleet.linux.routes import Routes
from portfleet.store import faults

#: Seconds for the other box's word after a batch was prepared: it has given up by then.
_WORD = 15.0


class _Restored(NamedTuple):
    """A connection that is restored and silent, with its record; ``asking``: see `tcp_repair.to_ask`."""

    sock: socket.socket
    flow: Flow
    record: bytes
    asking: bool


class Arrival:
    """Takes connections for the daemon at ``place``, whose port is ``port``."""

    def __init__(self, place: Control, port: int, stream: Lines, relocation: Relocation, copies: Copies) -> None:
        self._place, self._port, self._stream, self._relocation = place, port, stream, relocation
        self._copies = copies
        self._prepared: deque[list[_Restored]] = deque()
        self._handing: Handing | None = None

    def run(self) -> str:
        """Take batches until the other box has no more; return why it ended early, "" if it did not."""
        try:
            self._stream.say({"relocate": box_answers.VERSION})
            while "end" not in (line := self._stream.hear(seconds=_WORD if self._waiting else None)):
                self._hear(line)
        except (StreamEnded, HandingFailed, PortfleetError, OSError) as error:
            return str(error)
        finally:
            with suppress(PortfleetError):
                self._forget()
            if self._handing is not None:
                self._handing.end()
        return ""

    @property
    def _waiting(self) -> bool:
        """Whether the other box has a word to say soon."""
        return self._handing is None or bool(self._prepared)

    def _hear(self, line: Mapping[str, Any]) -> None:
        if "known" in line:
            self._stream.say({"known": self._known(box_answers.clients(line["known"]))})
        elif self._handing is None:
            self._handing = self._agreed(line.get("receive"))
        elif "abandon" in line:
            self._forget()
        elif line.get("commit") is True:
            if not self._prepared:
                raise StreamEnded("the other box commits what it has not sent")
            self._serve(self._handing, self._prepared.popleft(), box_answers.numbers(line.get("without")))
        else:
            self._prepare(line)

    def _agreed(self, hello: object) -> Handing:
        if not isinstance(hello, dict):
            raise StreamEnded("the other box does not say what it has")
        try:
            handing = Handing.to(self._place, hello)
        except (HandingFailed, OSError) as error:
            self._stream.say({"ok": False, "error": str(error)})
            raise
        self._copies.introduce(hello)
        self._stream.say({"ok": True, "version": handing.agreed.version, "room": handing.agreed.room})
        return handing

    def _known(self, clients: Sequence[tuple[bytes, int] | None]) -> list[bool]:
        """Return which clients have a connection here to the instance's port."""
        found = {(one.peer, one.peer_port) for one in sockdiag.connections() if one.port == self._port}
        return [client in found for client in clients]

    def _prepare(self, line: Mapping[str, Any]) -> None:
        """Restore a batch, and say so, or why that cannot be."""
        made: list[_Restored] = []
        faults.point("relocation received")
        try:
            frozen = unpack(base64.b64decode(line["batch"], validate=True))
            found = records(base64.b64decode(line["records"], validate=True), len(frozen))
            here = Here()
            for one, record in zip(frozen, found, strict=True):
                flow = one.flow._replace(address=here.address(one.flow), port=self._port)
                sock = tcp_repair.restore(one._replace(flow=flow))
                whole = with_unsent(record, one.unsent) if one.unsent else record
                made.append(_Restored(sock, flow, whole, tcp_repair.to_ask(one)))
            faults.point("relocation restored")
            self._relocation.admit([one.flow for one in made])
        except (KeyError, TypeError, ValueError, Improper, OSError, PortfleetError) as error:
            self._dissolve(made)
            self._stream.say({"refused": str(error) or repr(error)})
            return
        self._prepared.append(made)
        self._stream.say({"prepared": here.said})
        faults.point("relocation prepared there")

    def _serve(self, handing: Handing, batch: Sequence[_Restored], without: frozenset[int]) -> None:
        """Let a batch speak, and give it to the daemon. What the daemon does not take goes on at the other box."""
        self._dissolve([one for number, one in enumerate(batch) if number in without])
        moved = [one for number, one in enumerate(batch) if number not in without]
        body = b"".join(one.record for one in moved)
        try:
            if moved:
                self._relocation.take_back([one.flow for one in moved])
                self._copies.keep([one.sock for one in moved], body)
                for one in moved:
                    tcp_repair.thaw(one.sock, asking=one.asking)
                faults.point("relocation thawed")
                handing.pass_on([one.sock.fileno() for one in moved], body)
                faults.point("relocation passed on")
        except (HandingFailed, PortfleetError, OSError) as error:
            for one in moved:  # the daemon may have them all the same, and only be late
                with suppress(OSError):
                    tcp_repair.vanish(one.sock)
            self._dissolve(moved)
            self._stream.say({"failed": f"{quantity(len(moved), 'connection')}: {error}"})
            raise
        finally:
            self._copies.drop()
        for one in moved:
            one.sock.close()
        self._stream.say({"done": len(moved)})

    def _forget(self) -> None:
        while self._prepared:
            self._dissolve(self._prepared.popleft())

    def _dissolve(self, batch: Sequence[_Restored]) -> None:
        for one in batch:
            one.sock.close()  # in repair mode: nothing is sent
        if batch:
            self._relocation.dismiss([one.flow for one in batch])


class Here:
    """The addresses that a batch's connections have on this box; what is ``said`` of them, by family ("4", "6")."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self._addresses: dict[bytes, bytes] = {}
        self._own: dict[int, bytes] = {}

    def address(self, flow: Flow) -> bytes:
        """Return what was dialled if that is this box's, otherwise the address from which it reaches the clients."""
        if flow.family not in self._own:
            self._own[flow.family] = tcp_repair.source_toward(flow.client)
            family = socket.AF_INET if flow.family == 4 else socket.AF_INET6
            self.said[str(flow.family)] = socket.inet_ntop(family, self._own[flow.family])
        if flow.dialled not in self._addresses:
            with Routes() as routes:
                local = routes.is_local(flow.dialled)
            self._addresses[flow.dialled] = flow.dialled if local else self._own[flow.family]
        return self._addresses[flow.dialled]
