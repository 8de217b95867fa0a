"""What others do to the rules: nftables' notifications, and the generation id that tells whether anything was done.

Every transaction ends with a message that gives the new generation id and the process that did it (linux/netfilter/
nf_tables.h, NFT_MSG_NEWGEN). A name of a table is attribute 1 of every other message. A quota
that packets have spent is told of without a transaction around it (NFT_MSG_NEWOBJ).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from portfleet.core.errors import Exit, PortfleetError
from portfleet.linux.netlink import NETLINK_NETFILTER, Netfilter, attributes, messages, widen

_SUBSYSTEM = 10 << 8
_DELETE_TABLE, _NEW_GENERATION, _GET_GENERATION = _SUBSYSTEM | 2, _SUBSYSTEM | 15, _SUBSYSTEM | 16
_NEW_OBJECT, _OBJECT_NAME = _SUBSYSTEM | 18, 2
_GENERATION_ID, _PROCESS_ID, _PROCESS_NAME = 1, 2, 3
_NAME = 1
_GROUP_NFTABLES = 7
_ADD_MEMBERSHIP, _SOL_NETLINK = 1, 270
#: A table of 4,096 slots is told of in 0.6 MB of messages; the default buffer of 0.2 MB lost those of every repair.
_BUFFER = 16 << 20
_NFGEN_SIZE = 4


@dataclass(frozen=True)
class RulesChanged:
    """One transaction on the rules of this network namespace, by whom, and which tables it touched or deleted.

    ``spent`` is (table, quota) if it is none but a quota that packets have spent.

    ``lost``: notifications were dropped, so that nothing but the fact of a change is known.
    """

    generation: int = 0
    pid: int = 0
    process: str = ""
    tables: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()
    lost: bool = False
    spent: tuple[str, str] | None = None


class Generation:
    """Returns the generation id of the rules when called; it grows with every program's transaction.

    One socket serves all calls: closing a netfilter socket waits until the kernel has flushed its work, which took
    5 ms on a busy machine, where asking takes 0.02. Raises PortfleetError.
    """

    def __init__(self) -> None:
        try:
            self._netfilter = Netfilter()
        except OSError as error:
            raise _refused(error) from None

    def __call__(self) -> int:
        try:
            return int.from_bytes(self._netfilter.get(_GET_GENERATION, socket.AF_UNSPEC)[_GENERATION_ID], "big")
        except OSError as error:
            raise _refused(error) from None

    def close(self) -> None:
        self._netfilter.close()


class RulesWatch:
    """Tells of every transaction on the rules. Readable (``fileno``) when there is something to ``read``.

    ``shortage`` says what a smaller buffer than asked for costs; "" if it is as large.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
            )
            self._socket.bind((0, 0))
            room = widen(self._socket, received=_BUFFER)
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        except OSError as error:
            raise _refused(error) from None
        self.shortage = ""
        if room < _BUFFER:
            self.shortage = f"notifications of changes over {room:,} bytes are lost: the rules are looked at instead"
        self._tables: set[str] = set()
        self._deleted: set[str] = set()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[RulesChanged]:
        """Return the transactions that were told of since the last call; never waits."""
        found: list[RulesChanged] = []
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # A transaction with more elements than the socket's buffer holds.
                self._tables, self._deleted = set(), set()
                found.append(RulesChanged(lost=True))
                continue
            for kind, _, body in messages(data):
                self._take(kind, attributes(body[_NFGEN_SIZE:]), found)

    def _take(self, kind: int, values: dict[int, bytes], found: list[RulesChanged]) -> None:
        if kind >> 8 != _SUBSYSTEM >> 8:
            return
        if kind == _NEW_OBJECT:
            found.append(RulesChanged(spent=(_text(values, _NAME), _text(values, _OBJECT_NAME))))
            return
        if kind != _NEW_GENERATION:
            name = _text(values, _NAME)
            self._tables.add(name)
            if kind == _DELETE_TABLE:
                self._deleted.add(name)
            return
        found.append(
            RulesChanged(
                generation=int.from_bytes(values.get(_GENERATION_ID, b""), "big"),
                pid=int.from_bytes(values.get(_PROCESS_ID, b""), "big"),
                process=_text(values, _PROCESS_NAME),
                tables=frozenset(self._tables),
                deleted=frozenset(self._deleted),
            )
        )
        self._tables, self._deleted = set(), set()


def _text(values: Mapping[int, bytes], kind: int) -> str:
    return values.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def _refused(error: OSError) -> PortfleetError:
    hint = "run as root, or give the program CAP_NET_ADMIN" if error.errno == errno.EPERM else "modprobe nf_tables"
    return PortfleetError(f"cannot ask nftables: {os.strerror(error.errno or 0)}", hint=hint, code=Exit.KERNEL)
