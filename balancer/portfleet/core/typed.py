"""JSON values as frozen dataclasses and back, checked by the dataclasses' own annotations.

Known are str, bool, int, float, None, ``X | Y``, Literal, tuple, Mapping and dataclasses of those. What does not fit is
a Misfit that says where and what; nothing is converted silently but an int where a float is declared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from portfleet.core.printable import quantity

T = TypeVar("T")
_Reader = Callable[[Any], Any]


class Misfit(ValueError):
    """A value that is not what its declaration says; the text names the place and the value."""

    def inside(self, place: str) -> Misfit:
        """Return it as a misfit of what has the value at ``place``: places are put together for misfits alone."""
        return Misfit(f"{place}{self}")


def read(kind: type[T], data: object, *, where: str, given: Mapping[str, object] | None = None) -> T:
    """Return ``data`` (JSON values) as an instance of the dataclass ``kind``; ``given`` are fields that are not read.

    ``where`` names ``data`` in the text of a Misfit, which is raised for a missing or unknown key, a value of another
    type, and a value that the dataclass itself refuses (a ValueError from its ``__post_init__``).
    """
    declared: Any = kind
    try:
        found: T = _dataclass(declared, tuple(given or ()))(data, given or {})
    except Misfit as misfit:
        raise misfit.inside(where) from None
    return found


def write(value: object) -> Any:
    """Return a value that `read` knows as JSON values."""
    if is_dataclass(value):
        return {field.name: write(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: write(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [write(entry) for entry in value]
    return value


def within(name: str, value: float, least: float, most: float = float("inf")) -> None:
    """Raise ValueError if a value is not in its range, both ends included: for a dataclass's ``__post_init__``."""
    if not least <= value <= most:
        limits = f"{least:g} to {most:g}" if most < float("inf") else f"at least {least:g}"
        raise ValueError(f"{name} is {value:g}, it must be {limits}")


@cache
def _dataclass(kind: Any, given: tuple[str, ...] = ()) -> Callable[..., Any]:
    hints, ours = get_type_hints(kind), [field for field in fields(kind) if field.name not in given]
    readers = {field.name: _reader(hints[field.name]) for field in ours}
    exact = {field.name: _exact(hints[field.name]) for field in ours}
    needed = [field.name for field in ours if field.default is MISSING and field.default_factory is MISSING]

    def read_dataclass(data: Any, given: Mapping[str, object] = MappingProxyType({})) -> Any:
        if not isinstance(data, dict):
            raise Misfit(f" is not an object: {_short(data)}")
        if data.keys() != readers.keys():
            if unknown := data.keys() - readers.keys():
                raise Misfit(f" has an unknown key: {min(unknown)}")
            if lacking := [name for name in needed if name not in data]:
                raise Misfit(f" lacks {lacking[0]}")
        values = {}
        try:
            for name, entry in data.items():
                values[name] = entry if type(entry) in exact[name] else readers[name](entry)
        except Misfit as misfit:
            raise misfit.inside(f".{name}") from None
        try:
            return kind(**values, **given)
        except ValueError as error:
            raise Misfit(f": {error}") from None

    return read_dataclass


def _reader(hint: Any) -> _Reader:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of([(_plain(part), _reader(part)) for part in parts])
    if origin is Literal:
        return _literal(parts)
    if origin is tuple:
        return _every(_reader(parts[0])) if parts[1:] == (...,) else _each([_reader(part) for part in parts])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(_reader(parts[0]), _reader(parts[1]))
    if hint in _WORDS:
        return _scalar(hint)
    return _dataclass(hint)


def _plain(hint: Any) -> tuple[type, ...]:
    """Return the types of JSON values that ``hint`` may be read from."""
    origin = get_origin(hint) or hint
    if origin is Literal:
        return tuple({type(value) for value in get_args(hint)})
    if origin is float:
        return (float, int)
    if origin in (str, bool, int, NoneType):
        return (origin,)
    return (list,) if origin is tuple else (dict,)


def _exact(hint: Any) -> frozenset[type]:
    """Return the types of JSON values that are what ``hint`` says as they are, which most fields are."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return frozenset({str, bool, int, NoneType}.intersection(parts)) if float not in parts else frozenset()


def _scalar(kind: type) -> _Reader:
    plain = _plain(kind)

    def read_scalar(value: Any) -> Any:
        if type(value) not in plain:
            raise Misfit(f" is not {_WORDS[kind]}: {_short(value)}")
        return _finite(value) if kind is float else value

    return read_scalar


def _finite(value: float) -> float:
    try:
        if math.isfinite(number := float(value)):
            return number
    except OverflowError:
        pass
    raise Misfit(f" is not a finite number: {_short(value)}")


_WORDS: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    NoneType: "null",
}


def _one_of(choices: list[tuple[tuple[type, ...], _Reader]]) -> _Reader:
    def read_one_of(value: Any) -> Any:
        for plain, reader in choices:
            if type(value) in plain:
                return reader(value)
        return choices[0][1](value)  # does not fit, and says so

    return read_one_of


def _literal(values: tuple[Any, ...]) -> _Reader:
    def read_literal(value: Any) -> Any:
        if not any(type(value) is type(known) and value == known for known in values):
            raise Misfit(f" is not one of {', '.join(map(str, values))}: {_short(value)}")
        return value

    return read_literal


def _every(reader: _Reader) -> _Reader:
    def read_every(value: Any) -> Any:
        return _all((reader, entry) for entry in _list(value))

    return read_every


def _each(readers: list[_Reader]) -> _Reader:
    def read_each(value: Any) -> Any:
        entries = _list(value)
        if len(entries) != len(readers):
            raise Misfit(f" has {quantity(len(entries), 'entry')}, not {len(readers)}")
        return _all(zip(readers, entries, strict=True))

    return read_each


def _all(pairs: Iterable[tuple[_Reader, Any]]) -> tuple[Any, ...]:
    """Read the entries of a list, each by its reader."""
    found: list[Any] = []
    try:
        for reader, entry in pairs:
            found.append(reader(entry))
    except Misfit as misfit:
        raise misfit.inside(f"[{len(found)}]") from None
    return tuple(found)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Misfit(f" is not a list: {_short(value)}")
    return value


def _mapping(key_reader: _Reader, reader: _Reader) -> _Reader:
    def read_mapping(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Misfit(f" is not an object: {_short(value)}")
        found: dict[Any, Any] = dict.fromkeys(map(key_reader, value))
        try:
            for key, entry in value.items():
                found[key] = reader(entry)
        except Misfit as misfit:
            raise misfit.inside(f".{key}") from None
        return found

    return read_mapping


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
