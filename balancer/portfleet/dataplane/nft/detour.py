"""An instance's chain made to lead to a sibling's, straight to the kernel: what an ejection waits for.

libnftables reads the names of all chains before each change: 17 ms with 1,000 services (`script/bench
dataplane/scale`), for a change whose two messages say all there is to it. What they name the kernel looks up itself.
Attributes and codes: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import os
import struct

from portfleet.core.changes import Divert
from portfleet.core.errors import Exit, PortfleetError
from portfleet.linux.netlink import Netfilter, attribute, nested

_INET, _NFTABLES = 1, 10
_NEW_RULE, _DELETE_RULE = (_NFTABLES << 8 | number for number in (6, 8))
_CREATE, _APPEND = 0x400, 0x800
_TABLE, _CHAIN, _EXPRESSIONS = 1, 2, 4
_LIST_ELEMENT, _NAME, _DATA, _REGISTER, _VALUE, _VERDICT, _CODE, _VERDICT_CHAIN = 1, 1, 2, 1, 2, 2, 1, 2
_VERDICT_REGISTER, _GOTO = struct.pack("!I", 0), struct.pack("!i", -4)


class Detour:
    """Carries out diversions in the table ``table``, over one socket that is kept."""

    def __init__(self, table: str) -> None:
        self._table = attribute(_TABLE, _text(table))
        self._netfilter: Netfilter | None = None

    def run(self, change: Divert) -> None:
        """Carry out one, as one transaction; raise PortfleetError (exit 3) if the kernel refuses."""
        chain = self._table + attribute(_CHAIN, _text(change.name))
        try:
            if self._netfilter is None:
                self._netfilter = Netfilter()
            self._netfilter.transact(
                _NFTABLES,
                [
                    (_INET, _DELETE_RULE, 0, chain),  # all of the chain's
                    (_INET, _NEW_RULE, _CREATE | _APPEND, chain + nested(_EXPRESSIONS, _goto(change.to))),
                ],
            )
        except OSError as error:
            raise PortfleetError(
                f"cannot change nftables, nothing was applied: {error.strerror or os.strerror(error.errno or 0)}: "
                f"{change.name} is to lead to {change.to}",
                hint="portfleet doctor",
                code=Exit.KERNEL,
            ) from None


def _goto(chain: str) -> bytes:
    """Return the one expression of a rule that goes to ``chain``."""
    verdict = nested(_VERDICT, attribute(_CODE, _GOTO), attribute(_VERDICT_CHAIN, _text(chain)))
    data = nested(_DATA, attribute(_REGISTER, _VERDICT_REGISTER), nested(_VALUE, verdict))
    return nested(_LIST_ELEMENT, attribute(_NAME, _text("immediate")), data)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"
