"""The box that connections come to: restores them silent, and lets them speak once the other box has let go of them.

To the daemon this is the sender of a hand-off (docs/handoff.md). What is restored and not committed is closed without a
word to the client, whatever ends the stream.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from portfleet.core import typed
from portfleet.core.errors import PortfleetError
from portfleet.core.frozen import Frozen, unpack
from portfleet.core.printable import quantity
from portfleet.daemons.exchange import Control
from portfleet.daemons.handing import Handing, HandingFailed
from portfleet.dataplane.relocation import Relocation
from portfleet.linux import routes, tcp_repair
from portfleet.linux.lines import Lines, StreamEnded
from portfleet.store import faults

VERSION = 1
#: Seconds for the other box's word after a batch was prepared: it has given up by then.
_WORD = 15.0


class Arrival:
    """Takes connections for the daemon at ``place``, whose port is ``port``."""

    def __init__(self, place: Control, port: int, stream: Lines, relocation: Relocation) -> None:
        self._place, self._port, self._stream, self._relocation = place, port, stream, relocation

    def run(self) -> str:
        """Take batches until the other box has no more; return why it ended early, "" if it did not."""
        try:
            self._stream.say({"relocate": VERSION})
            hello = self._stream.hear(seconds=_WORD)
            if not isinstance(hello.get("receive"), dict):
                return "the other box does not say what it has"
            handing = self._handing(hello["receive"])
        except (StreamEnded, HandingFailed, OSError) as error:
            return str(error)
        try:
            while "end" not in (line := self._stream.hear(seconds=None)):
                self._take(handing, line)
        except (StreamEnded, HandingFailed, PortfleetError, OSError) as error:
            return str(error)
        finally:
            handing.end()
        return ""

    def _handing(self, hello: Mapping[str, Any]) -> Handing:
        try:
            handing = Handing.to(self._place, hello)
        except (HandingFailed, OSError) as error:
            self._stream.say({"ok": False, "error": str(error)})
            raise
        self._stream.say({"ok": True, "version": handing.agreed.version, "room": handing.agreed.room})
        return handing

    def _take(self, handing: Handing, line: Mapping[str, Any]) -> None:
        sockets: list[socket.socket] = []
        flows: list[Any] = []
        committed = False
        try:
            frozen = [typed.read(Frozen, one, where="a connection") for one in line["batch"]]
            addresses = [_address(one) for one in frozen]
            for one, address in zip(frozen, addresses, strict=True):
                sockets.append(tcp_repair.restore(one, address, self._port))
            faults.point("relocation restored")
            flows = [replace(one.flow, port=self._port) for one in frozen]
            self._relocation.admit(flows, addresses)
            body = unpack(line["records"])
        except (KeyError, TypeError, ValueError, OSError, PortfleetError) as error:
            self._forget(sockets, flows)
            self._stream.say({"refused": str(error) or repr(error)})
            return
        try:
            self._stream.say({"prepared": {str(one.flow.family): _own(one) for one in frozen}})
            committed = self._stream.hear(seconds=_WORD).get("commit") is True
        finally:
            if not committed:
                self._forget(sockets, flows)
        if committed:
            self._serve(handing, frozen, sockets, body)

    def _serve(self, handing: Handing, frozen: Sequence[Frozen], sockets: Sequence[socket.socket], body: bytes) -> None:
        """Let a batch speak, and give it to the daemon. What the daemon does not take is lost, and said."""
        try:
            self._relocation.take_back([one.flow for one in frozen])
            for one, sock in zip(frozen, sockets, strict=True):
                tcp_repair.thaw(sock, one)
            faults.point("relocation thawed")
            handing.pass_on([sock.fileno() for sock in sockets], body)
        except (HandingFailed, PortfleetError, OSError) as error:
            self._stream.say({"failed": f"{quantity(len(frozen), 'connection', 'is')} lost: {error}"})
            raise
        finally:
            for sock in sockets:
                sock.close()
        self._stream.say({"done": len(frozen)})

    def _forget(self, sockets: Sequence[socket.socket], flows: Sequence[Any]) -> None:
        for sock in sockets:
            sock.close()  # in repair mode: nothing is sent
        if flows:
            self._relocation.dismiss(flows)


def _address(frozen: Frozen) -> str:
    """Return the address that a connection has here: what was dialled if that is this box's, otherwise its own."""
    dialled = ipaddress.ip_address(frozen.flow.dialled)
    return frozen.flow.dialled if routes.is_local(dialled) else _own(frozen)


def _own(frozen: Frozen) -> str:
    """Return the address from which this box reaches the client."""
    return tcp_repair.source_toward(frozen.flow.client)
