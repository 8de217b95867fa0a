"""The kinds of values of fleet.toml that hold several: lists of words and addresses, tables by name."""

from __future__ import annotations

import ipaddress
import re
from abc import abstractmethod
from typing import Any, ClassVar

from portfleet.config.kinds import PRINTABLE, Kind, Number, Schema
from portfleet.config.reader import Reader, key_text, parse_listen, short, show
from portfleet.core import pins
from portfleet.core.model import Listen

_PORT_NAME = re.compile(r"[a-z_]{1,30}")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Words(Kind):
    """A list of strings without control characters; one may be empty, as redis' ``--save ""`` is."""

    words = "list of strings"
    bounds = "no control characters"

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        value = reader.get(key, list, "a list of strings", example)
        if value is None:
            return default
        for number, item in enumerate(value):
            place, hint = f"{key}[{number}]", f"for example {key} = {example}"
            if not isinstance(item, str):
                reader.wrong(place, f"must be a string, not {show(item)}", hint)
                return default
            if not reader.clean(place, item):
                return default
        return tuple(value)

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "string", "pattern": PRINTABLE}}


class Addresses(Kind):
    """Addresses with ports that do not overlap; of other boxes (``remote``) or those that clients dial."""

    words = "list of strings"

    def __init__(self, *, hint: str, remote: bool = False) -> None:
        self.hint, self.remote = hint, remote

    @property
    def bounds(self) -> str:
        return '"ADDRESS:PORT", IPv6 in brackets' + (', or ":PORT"' if not self.remote else "")

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        found: list[Listen] = []
        for number, text in enumerate(Words().read(reader, key, default=(), example=example)):
            place = f"{key}[{number}]"
            try:
                listen = parse_listen(text)
            except ValueError as error:
                reader.wrong(place, f'"{text}": {error}', self.hint)
                continue
            if self.remote and listen.address is None:
                hint = 'write its address, as in "203.0.113.2:7101"'
                reader.wrong(place, f'"{text}" names no box', hint)
            elif listen in found:
                reader.wrong(place, f'"{text}" is there twice', "remove one of them")
            elif not self.remote and (wider := _contains(found, listen)):
                reader.wrong(place, f'"{text}" and "{wider}" let the same clients in', "remove one of them")
            else:
                found.append(listen)
        return _joined(found)

    def schema(self) -> Schema:
        address = r"\[[0-9A-Fa-f:.]+\]|[0-9.]" + ("+" if self.remote else "*")
        item = {"type": "string", "pattern": f"^({address}):[0-9]{{1,5}}$"}
        return {"type": "array", "items": item, "uniqueItems": True}


class Networks(Kind):
    """A list of addresses and networks of clients, each once."""

    words = "list of strings"
    bounds = '"ADDRESS" or "ADDRESS/PREFIX", IPv4 or IPv6'

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        found: list[str] = []
        for number, text in enumerate(Words().read(reader, key, default=(), example=example)):
            try:
                found.append(str(pins.parse(text)))
            except ValueError as error:
                hint = 'write "198.18.0.7", "198.18.0.0/24", "2001:db8::7" or "2001:db8:7::/48"'
                reader.wrong(f"{key}[{number}]", f'"{text}": {error}', hint)
        return tuple(dict.fromkeys(found))

    def schema(self) -> Schema:
        item = {"type": "string", "pattern": r"^([0-9.]+|[0-9A-Fa-f:.]+)(/[0-9]{1,3})?$"}
        return {"type": "array", "items": item}

    def toml(self, value: Any) -> str | None:
        return super().toml(list(value)) if value else None


def dialable(text: str) -> pins.Address | None:
    """Return an address as packets can be sent to it; None for one that is for this box alone, or for many.

    Raises ValueError for what is no address.
    """
    address = ipaddress.ip_address(text)
    alone = any((address.is_unspecified, address.is_loopback, address.is_multicast))
    return None if alone or "%" in text else address


class Sources(Kind):
    """Addresses that packets are sent from, one a family at most."""

    words = "list of strings"
    bounds = "one IPv4 and one IPv6 address at most"

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        words = Words().read(reader, key, default=None, example=example)
        found: dict[int, str] = {}
        for number, text in enumerate(words or ()):
            place, hint = f"{key}[{number}]", f"for example {key} = {example}"
            try:
                address = dialable(text)
            except ValueError:
                reader.wrong(place, f'"{text}" is not an address', hint)
                continue
            if address is None:
                reader.wrong(place, f'"{text}" is no address that another box could answer to', hint)
            elif address.version in found:
                reader.wrong(place, f'"{text}" is a second one of IPv{address.version}', "remove one of them")
            else:
                found[address.version] = str(address)
        return default if words is None else tuple(found[version] for version in sorted(found))

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "string", "pattern": "^[0-9A-Fa-f:.]+$"}, "maxItems": 2}


class _Mapping(Kind):
    """A table of names chosen by the operator, whose values are all of one kind."""

    kind: ClassVar[type]
    word: ClassVar[str]

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        value = reader.get(key, dict, "a table", example)
        if value is None:
            return default
        hint = f"for example {key} = {example}"
        for name, item in value.items():
            if not isinstance(item, self.kind) or isinstance(item, bool):
                reader.wrong(f"{key}.{key_text(name)}", f"must be {self.word}, not {show(item)}", hint)
                return default
        for name, item in value.items():
            if problem := self.trouble(name, item, hint):
                reader.wrong(f"{key}.{key_text(name)}", *problem)
        return dict(value)

    @abstractmethod
    def trouble(self, name: str, item: Any, hint: str) -> tuple[str, str] | None:
        """Return what is wrong with one entry (message, hint)."""


class Environment(_Mapping):
    """Environment variables by name."""

    words = "table of strings"
    bounds = "names of letters, digits and _, none that starts with PORTFLEET_"
    kind = str
    word = "a string"

    def trouble(self, name: str, item: Any, hint: str) -> tuple[str, str] | None:
        if not _ENVIRONMENT_NAME.fullmatch(name):
            return "is not the name of an environment variable", "use letters, digits and _"
        if name.startswith("PORTFLEET_"):
            return "names that start with PORTFLEET_ are set by portfleet itself", "choose another name"
        return None

    def schema(self) -> Schema:
        names = {"pattern": f"^(?!PORTFLEET_){_ENVIRONMENT_NAME.pattern}$"}
        return {
            "type": "object",
            "propertyNames": names,
            "additionalProperties": {"type": "string", "pattern": PRINTABLE},
        }


class ExtraPorts(_Mapping):
    """Ports by name: the one of the first instance."""

    words = "table of whole numbers"
    bounds = "1 … 65535, by a name of lower-case letters and _"
    kind = int
    word = "a whole number"

    def trouble(self, name: str, item: Any, hint: str) -> tuple[str, str] | None:
        if not _PORT_NAME.fullmatch(name):
            return "is not a name that a placeholder can have", "use lower-case letters and _, as in metrics"
        return None if 1 <= item <= 65535 else (f"{short(item)} is not within 1 … 65535", hint)

    def schema(self) -> Schema:
        names = {"pattern": f"^{_PORT_NAME.pattern}$"}
        return {"type": "object", "propertyNames": names, "additionalProperties": Number(1, 65535).schema()}


class Templates(_Mapping):
    """Files by their path, each with the template that it is made of."""

    words = "table of strings"
    bounds = "absolute paths with {instance} or {port}; templates relative to the folder of fleet.toml"
    kind = str
    word = "a template's path"

    def trouble(self, name: str, item: Any, hint: str) -> tuple[str, str] | None:
        if not name.startswith("/") or ".." in name.split("/") or name.endswith("/") or not name.isprintable():
            return "is not the absolute path of a file, without .. in it", hint
        if not item or not item.isprintable():
            return "names no template", hint
        return None

    def schema(self) -> Schema:
        paths = {"pattern": r"^/(?!(.*/)?\.\.(/|$)).*[^/]$"}
        texts = {"type": "string", "minLength": 1, "pattern": PRINTABLE}
        return {"type": "object", "propertyNames": paths, "additionalProperties": texts}


class Weights(_Mapping):
    """Weights by member: an instance's number, or ``remote-N``."""

    words = "table of whole numbers"
    kind = int
    word = "a whole number"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    @property
    def bounds(self) -> str:
        return f"{self.low} … {self.high}, by an instance's number or remote-N; not all 0"

    def trouble(self, name: str, item: Any, hint: str) -> tuple[str, str] | None:
        if self.low <= item <= self.high:
            return None
        return f"{short(item)} is not within {self.low} … {self.high}", hint

    def schema(self) -> Schema:
        names = {"pattern": "^(remote-)?[1-9][0-9]*$"}
        return {"type": "object", "propertyNames": names, "additionalProperties": Number(self.low, self.high).schema()}


def _joined(found: list[Listen]) -> tuple[Listen, ...]:
    """Write "0.0.0.0:P" beside "[::]:P" as ":P", which is what the kernel's table is read back as."""
    both = {listen.port for listen in found if listen.address is None and listen.families == (6,)}
    both &= {listen.port for listen in found if listen.address is None and listen.families == (4,)}
    joined = (Listen(x.port, None, (4, 6)) if x.address is None and x.port in both else x for x in found)
    return tuple(dict.fromkeys(joined))


def _contains(found: list[Listen], listen: Listen) -> Listen | None:
    same = (other for other in found if (other.port, other.address) == (listen.port, listen.address))
    return next((other for other in same if {*other.families} & {*listen.families}), None)
