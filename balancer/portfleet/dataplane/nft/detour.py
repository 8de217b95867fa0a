"""An instance's new connections led to a sibling, straight to the kernel: what an ejection waits for.

libnftables reads the names of all chains before each change: 17 ms with 1,000 services (`script/bench
dataplane/scale`), for a change whose few elements say all there is to it. Attributes and codes:
linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from portfleet.core.changes import Divert
from portfleet.core.errors import Exit, PortfleetError
from portfleet.dataplane.nft.book import TABLE, service_of_instance, without_rules
from portfleet.dataplane.nft.diversions import diverting
from portfleet.dataplane.nft.lookup import Lookup
from portfleet.dataplane.nft.reader import NftReader
from portfleet.linux.netlink import Netfilter, attribute, nested

_INET, _NFTABLES = 1, 10
_NEW_ELEMENT, _DELETE_ELEMENT = (_NFTABLES << 8 | number for number in (12, 14))
_CREATE = 0x400
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_LIST_ELEMENT, _KEY, _DATA, _VALUE = 1, 1, 2, 1


class Detour:
    """Carries out diversions, over one socket that is kept."""

    def __init__(self, reader: NftReader, lookup: Lookup) -> None:
        self._reader, self._lookup = reader, lookup
        self._table = attribute(_TABLE, _text(TABLE.partition(" ")[2]))
        self._netfilter: Netfilter | None = None
        #: The numbers of instances as they were read last, by service.
        self._numbers: dict[str, dict[str, int]] = {}

    def run(self, change: Divert) -> bool:
        """Carry out one, as one transaction; return False if all is led so already.

        Raise PortfleetError (exit 3) if the kernel refuses.
        """
        service = service_of_instance(change.name)
        number, to = self._number(service, change.name), self._number(service, change.to)
        now = self._reader.registers(f"diverted-{service}")
        try:
            changed = diverting(now, number, to)
            if changed:
                self._set(service, old=[one for one in changed if one in now], new=changed.items())
        except FileNotFoundError:
            why = f"the rules of {service} are another version's, or were just changed: "
            raise _refused(why, change, hint="portfleet apply") from None
        except OSError as error:
            raise _refused(f"{error.strerror or os.strerror(error.errno or 0)}: ", change) from None
        except ValueError as error:
            raise _refused(f"{error}: ", change) from None
        return bool(changed)

    def _number(self, service: str, name: str) -> int:
        """Return the number that leads to an instance's chain; one that was read before counts if it still does."""
        known = self._numbers.get(service, {}).get(name)
        if known is not None:
            found = self._reader.element(f"instances-{service}", _register(known))
            if found is not None and found.chain == name:
                return known
        self._numbers[service] = {one: number for number, one in self._lookup.numbers(service).items()}
        if name not in self._numbers[service]:
            raise without_rules(name)
        return self._numbers[service][name]

    def _set(self, service: str, *, old: Iterable[int], new: Iterable[tuple[int, int]]) -> None:
        """Replace entries of a service's diversions; raise OSError if the kernel refuses."""
        if self._netfilter is None:
            self._netfilter = Netfilter()
        name = self._table + attribute(_SET, _text(f"diverted-{service}"))
        gone = [_element(_KEY, one) for one in old]
        come = [_element(_KEY, one) + _element(_DATA, to) for one, to in new]
        requests = [
            (_INET, kind, flags, name + nested(_ELEMENTS, *(nested(_LIST_ELEMENT, element) for element in elements)))
            for kind, flags, elements in ((_DELETE_ELEMENT, 0, gone), (_NEW_ELEMENT, _CREATE, come))
            if elements
        ]
        self._netfilter.transact(_NFTABLES, requests)


def _refused(why: str, change: Divert, *, hint: str = "portfleet doctor") -> PortfleetError:
    words = f"cannot change nftables, nothing was applied: {why}{change.name} is to lead to {change.to}"
    return PortfleetError(words, hint=hint, code=Exit.KERNEL)


def _element(kind: int, number: int) -> bytes:
    """Return a number as an element's key or data."""
    return nested(kind, attribute(_VALUE, _register(number)))


def _register(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"
