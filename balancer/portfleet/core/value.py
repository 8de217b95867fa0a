"""Values: frozen dataclasses that are quick to define.

``dataclass(frozen=True)`` compiles six functions for each class, a quarter of a millisecond, and `status` has 70 such
classes to define before it shows anything. Of a value one function is compiled, ``__init__``; the others are the same
for all and go by the fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass, which ``fields``, ``replace``, ``asdict`` and ``match`` take as any other."""
    if cls.__doc__ is None:
        cls.__doc__ = cls.__name__  # dataclass would write a signature, by a tokenizer that takes 4 ms to begin
    made: Any = dataclass(init=False, repr=False, eq=False)(cls)
    own = fields(made)
    made.__init__ = _init(cls, own)
    made.__eq__, made.__hash__ = _comparison([one.name for one in own if one.compare])
    made.__setattr__ = made.__delattr__ = _refuse
    if "__repr__" not in vars(cls):
        made.__repr__ = _repr
    return made  # type: ignore[no-any-return]  # Any, as methods of a class can be set no other way in mypy


def _init(cls: type[object], own: tuple[Field[Any], ...]) -> Callable[..., None]:
    """Return the ``__init__`` that sets ``own`` fields, then calls ``__post_init__`` if there is one."""
    names: dict[str, Any] = {"_set": object.__setattr__, "_MISSING": MISSING}
    arguments, lines = ["self"], []
    for one in own:
        given = one.name
        if one.default_factory is not MISSING:
            names[f"_make_{one.name}"] = one.default_factory
            arguments.append(f"{one.name}=_MISSING")
            given = f"_make_{one.name}() if {one.name} is _MISSING else {one.name}"
        elif one.default is not MISSING:
            names[f"_default_{one.name}"] = one.default
            arguments.append(f"{one.name}=_default_{one.name}")
        else:
            arguments.append(one.name)
        lines.append(f" _set(self, {one.name!r}, {given})")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    made: dict[str, Callable[..., None]] = {}
    # The text is made of the names of a class's fields, which Python has taken as names; dataclasses does the same.
    exec("\n".join([f"def __init__({', '.join(arguments)}):", *(lines or [" pass"])]), names, made)  # noqa: S102
    made["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
    return made["__init__"]


def _comparison(names: list[str]) -> tuple[Callable[..., bool], Callable[..., int]]:
    """Return the ``__eq__`` and the ``__hash__`` of values that are equal if these fields are."""
    key: Callable[[object], object] = attrgetter(*names) if names else lambda _: ()

    def equal(self: object, another: object) -> bool:
        return key(self) == key(another) if self.__class__ is another.__class__ else NotImplemented

    def digest(self: object) -> int:
        return hash(key(self))

    return equal, digest


def _repr(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({shown})"


def _refuse(_self: object, name: str, *_: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot change field {name!r}")
