"""Reads our table back from the kernel by nfnetlink: rules as digests, elements as values.

libnftables writes, but reads badly: it fills a cache of the whole ruleset for every question (1 s for one chain of
9,000), nft 1.0.6 cannot print ``update @map`` as JSON, and every version prints rules in another form. The kernel's
own form of a rule is the same for every reader, so a digest taken after our commit tells a later hand edit.
Attributes: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TypeVar

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.value import value
from portfleet.linux.netlink import Netfilter, attribute, attributes, members, nested

T = TypeVar("T")

_INET = 1
_SUBSYSTEM = 10 << 8
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENTS = (_SUBSYSTEM | number for number in (1, 4, 7, 10, 13))
_GET_GENERATION, _GENERATION_ID = _SUBSYSTEM | 16, 1
_TABLE, _NAME = 1, 2  # of a rule its chain, of a set or of elements the set's name
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 3, 4, 5, 7
_RULE_EXPRESSIONS, _RULE_USERDATA = 4, 7
_ELEMENTS = 3
_KEY, _DATA, _FLAGS, _EXPIRATION, _USERDATA, _EXPRESSION, _KEY_END = 1, 2, 3, 5, 6, 7, 10
_EXPRESSION_DATA, _COUNTER_PACKETS = 2, 2
_VALUE, _VERDICT = 1, 2
_LIST_ELEMENT = 1
_VERDICT_CHAIN = 2
_INTERVAL_END = 1
#: Words of 32 bits of an element whose key and data are one register each: three headers, key, two headers, data. A
#: header begins with the length, 28 bytes for the element and 12 for its data.
_WORDS, _KEY_WORD, _DATA_HEADER, _DATA_WORD = 7, 3, 4, 6
#: A counter's name, the head of its data and two counts of eight bytes.
_COUNTER = re.compile(rb"(counter\0.{4})(.{4}).{8}(.{4}).{8}", re.DOTALL)
_COUNTED = re.compile(rb"counter\0.{4}(.{12})(.{12})", re.DOTALL)
_NOTHING_COUNTED = rb"\1\2" + bytes(8) + rb"\3" + bytes(8)
#: How often something is read again because it changed while it was read.
_TRIES = 20


@value
class Element:
    """One element: its key; data of a map, or the chain to which its verdict leads ("" for another verdict).

    ``comment``: the one it was added with; ``end``: the key is where an interval ends (exclusive); ``seconds``: until
    it expires, None for never.
    """

    key: bytes
    data: bytes | None = None
    chain: str | None = None
    end: bool = False
    seconds: float | None = None
    comment: str = ""


@value
class Chain:
    """A chain: its hook (None: it is jumped to) and its rules as the kernel has them, counts left out."""

    hook: bytes
    rules: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """What tells it from an edited one."""
        return hashlib.sha256(b"".join([self.hook, *(b"%d:%s" % (len(rule), rule) for rule in self.rules)])).hexdigest()


class NftReader:
    """Reads the table ``name`` of family inet. Methods raise PortfleetError (exit 3) if the kernel refuses."""

    def __init__(self, name: str) -> None:
        self._table = attribute(_TABLE, name.encode() + b"\0")
        #: By set of ports: its elements as they were last, and what they had counted.
        self._counted: dict[str, tuple[list[bytes], Mapping[int, int]]] = {}

    @cached_property
    def _netfilter(self) -> Netfilter:
        return Netfilter()

    def generation(self) -> int:
        """Return the generation id of the rules, which grows with every transaction of any process."""
        found = self._ask(lambda: self._netfilter.get(_GET_GENERATION, socket.AF_UNSPEC))
        return int.from_bytes(found[_GENERATION_ID], "big") if found else 0

    def exists(self) -> bool:
        """Return whether the table is there."""
        return self._ask(lambda: bool(self._netfilter.get(_GET_TABLE, _INET, self._table))) or False

    def chains(self, *names: str) -> dict[str, Chain]:
        """Return the chains ``names``, all of the table's without a name; those that are not there are left out.

        Of 1,024 instances the kernel tells all chains in half a second, and from the start again if any rule of the
        network namespace was changed meanwhile. While that happens all the time they are read one by one.
        """
        if names:
            return self._ask(lambda: self._chains(names)) or {}
        try:
            return self._ask(lambda: self._chains(()), tries=1) or {}
        except InterruptedError:
            return {name: one for name in self.chain_names() for name, one in self.chains(name).items()}

    def chain_names(self) -> list[str]:
        """Return the names of the table's chains."""
        return self._ask(lambda: list(self._hooks())) or []

    def maps(self) -> frozenset[str]:
        """Return the names of the table's maps and sets."""
        return self._ask(lambda: frozenset(_text(found[_NAME]) for found in self._dump(_GET_SET))) or frozenset()

    def elements(self, name: str) -> list[Element]:
        """Return the elements of a map or set; none if it is not there."""

        def read() -> list[Element]:
            found = [element for data in self._element_lists(name) for element in _elements(data)]
            return _once(found, {(element.key, element.end) for element in found})

        return self._ask(read) or []

    def element(self, name: str, key: bytes) -> Element | None:
        """Return the element of a map with this key; None if it is not there."""
        chosen = nested(_ELEMENTS, nested(_LIST_ELEMENT, nested(_KEY, attribute(_VALUE, key))))
        which = attribute(_NAME, name.encode() + b"\0")
        found = self._ask(lambda: self._netfilter.get(_GET_ELEMENTS, _INET, self._table, which, chosen))
        return next(_elements(found.get(_ELEMENTS, b"")), None) if found else None

    def registers(self, name: str) -> dict[int, int]:
        """Return a map of 32-bit numbers to 32-bit numbers; of 4,096 elements within 3 ms."""

        def read() -> dict[int, int]:
            found = list(itertools.chain.from_iterable(map(_pairs, self._element_lists(name))))
            return dict(_once(found, dict(found)))

        return self._ask(read) or {}

    def counts(self, name: str) -> Mapping[int, int]:
        """Return what the counter of each element of a set of ports has counted, in packets, by port."""
        lists = self._ask(lambda: list(self._element_lists(name))) or []
        known = self._counted.get(name)
        if known is None or known[0] != lists:  # most often nothing was counted: then it is read once
            known = self._counted[name] = lists, dict(pair for data in lists for pair in _counts(data))
        return known[1]

    def passed(self, chain: str) -> int:
        """Return how many packets all counters of a chain have counted; 0 if it is not there."""
        chosen = attribute(_NAME, chain.encode() + b"\0")
        rules = self._ask(lambda: [found.get(_RULE_EXPRESSIONS, b"") for found in self._dump(_GET_RULE, chosen)]) or []
        return sum(int.from_bytes(one[2][-8:], "big") for rule in rules for one in _COUNTED.finditer(rule))

    def _chains(self, names: tuple[str, ...]) -> dict[str, Chain]:
        hooks: dict[str, bytes] = {}
        if names:
            for name in names:
                chosen = self._table + attribute(_CHAIN_NAME, name.encode() + b"\0")
                try:
                    found = self._netfilter.get(_GET_CHAIN, _INET, chosen)
                except FileNotFoundError:
                    continue
                hooks[name] = _hook(found)
        else:
            hooks = self._hooks()
        rules: dict[str, list[bytes]] = {name: [] for name in hooks}
        chosen_chains = [attribute(_NAME, name.encode() + b"\0") for name in hooks] if names else [b""]
        for chosen in chosen_chains:
            for found in self._dump(_GET_RULE, chosen):
                if (name := _text(found[_NAME])) in rules:
                    expressions = found.get(_RULE_EXPRESSIONS, b"")
                    if b"counter\0" in expressions:
                        expressions = _COUNTER.sub(_NOTHING_COUNTED, expressions)
                    rules[name].append(expressions + found.get(_RULE_USERDATA, b""))
        return {name: Chain(hook, tuple(rules[name])) for name, hook in hooks.items()}

    def _hooks(self) -> dict[str, bytes]:
        """Return every chain of the table with its hook."""
        found = (chain for _, chain in self._netfilter.dump(_GET_CHAIN, _INET, self._table, first=True))
        own = (chain for chain in found if attribute(_TABLE, chain[_TABLE]) == self._table)
        return {_text(chain[_CHAIN_NAME]): _hook(chain) for chain in own}

    def _dump(self, kind: int, *chosen: bytes) -> Iterator[dict[int, bytes]]:
        for _, found in self._netfilter.dump(kind, _INET, self._table, *chosen, first=True):
            yield found

    def _element_lists(self, name: str) -> Iterator[bytes]:
        for found in self._dump(_GET_ELEMENTS, attribute(_NAME, name.encode() + b"\0")):
            yield found.get(_ELEMENTS, b"")

    def _ask(self, read: Callable[[], T], *, tries: int = _TRIES) -> T | None:
        """Read; raise PortfleetError if the kernel refuses, or what is read changed so often meanwhile.

        InterruptedError is raised instead if it was to be read but once.
        """
        for _ in range(tries):
            try:
                return read()
            except FileNotFoundError:
                return None
            except InterruptedError:
                if tries == 1:
                    raise
            except OSError as error:
                hint = "run as root, or give the program CAP_NET_ADMIN" if error.errno == errno.EPERM else ""
                raise PortfleetError(
                    f"cannot read nftables: {error.strerror}", hint=hint or "modprobe nf_tables", code=Exit.KERNEL
                ) from None
        raise PortfleetError(
            f"cannot read nftables: its rules changed {_TRIES} times while they were read",
            hint="who changes them all the time? nft monitor",
            code=Exit.KERNEL,
        )


def _once(found: list[T], keys: Collection[object]) -> list[T]:
    """Return ``found``; raise InterruptedError if of its ``keys`` one came twice.

    Between two parts of a dump the kernel goes on by count (nft_rhash_walk). If the hash table grew meanwhile, which it
    does some time after it was filled, what came twice stands for something that was left out.
    """
    if len(found) != len(keys):
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
    return found


def _hook(found: dict[int, bytes]) -> bytes:
    parts = attributes(found.get(_CHAIN_HOOK, b""))
    return b"".join([*parts.values(), found.get(_CHAIN_POLICY, b""), found.get(_CHAIN_TYPE, b"")])


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _elements(data: bytes) -> Iterator[Element]:
    for _, body in members(data):
        found = attributes(body)
        value = attributes(found.get(_DATA, b""))
        chain = None
        if _VERDICT in value:
            chain = _text(attributes(value[_VERDICT]).get(_VERDICT_CHAIN, b""))
        key = attributes(found.get(_KEY, b"")).get(_VALUE, b"")
        expires = found.get(_EXPIRATION)
        yield Element(
            key=key,
            data=value.get(_VALUE),
            chain=chain,
            end=bool(int.from_bytes(found.get(_FLAGS, b""), "big") & _INTERVAL_END),
            seconds=int.from_bytes(expires, "big") / 1000 if expires else None,
            comment=_comment(found.get(_USERDATA, b"")),
        )


def _comment(userdata: bytes) -> str:
    """Return the comment in libnftnl's user data (type 0, length, text; udata.c); "" if it does not begin with one."""
    return _text(userdata[2 : 2 + userdata[1]]) if len(userdata) > 2 and userdata[0] == 0 else ""


def _pairs(data: bytes) -> Iterable[tuple[int, int]]:
    if len(data) % (4 * _WORDS) == 0:
        halves, words = memoryview(data).cast("H"), memoryview(data).cast("I")
        lengths = set(halves[:: 2 * _WORDS].tolist()), set(halves[2 * _DATA_HEADER :: 2 * _WORDS].tolist())
        if lengths == ({4 * _WORDS}, {12}):
            return zip(words[_KEY_WORD::_WORDS].tolist(), words[_DATA_WORD::_WORDS].tolist(), strict=True)
    found = ((element.key, element.data) for element in _elements(data) if element.data is not None)
    return ((int.from_bytes(key, sys.byteorder), int.from_bytes(value, sys.byteorder)) for key, value in found)


def _counts(data: bytes) -> Iterator[tuple[int, int]]:
    for _, body in members(data):
        found = attributes(body)
        port = attributes(found.get(_KEY, b"")).get(_VALUE, b"")
        counter = attributes(attributes(found.get(_EXPRESSION, b"")).get(_EXPRESSION_DATA, b""))
        yield int.from_bytes(port, "big"), int.from_bytes(counter.get(_COUNTER_PACKETS, b""), "big")
