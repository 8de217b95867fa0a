"""JSON values as dataclasses: what fits goes there and back, what does not is named with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from portfleet.core.typed import Misfit, read, write


@dataclass(frozen=True)
class Inner:
    x: int
    pair: tuple[str, float] = ("", 0.0)


@dataclass(frozen=True)
class Outer:
    text: str
    flag: bool
    number: float
    many: tuple[Inner, ...] = ()
    named: Mapping[str, int | None] = field(default_factory=dict)
    maybe: Inner | None = None
    kind: Literal["a", 1] = "a"
    either: int | str = 0

    def __post_init__(self) -> None:
        if self.text == "never":
            raise ValueError("text is never")


GOOD: dict[str, Any] = {"text": "t", "flag": True, "number": 2}


@pytest.mark.parametrize(
    "value",
    [
        Outer("t", True, 2.5),
        Outer("t", False, 2.0, (Inner(1), Inner(2, ("y", 0.5))), {"a": 1, "b": None}, Inner(3), 1, "x"),
    ],
)
def test_what_is_written_is_read(value: Outer) -> None:
    assert read(Outer, write(value), where="it") == value


def test_whole_numbers_are_numbers_and_what_is_given_is_not_read() -> None:
    found = read(Outer, GOOD, where="it")
    assert found == Outer("t", True, 2.0) and type(found.number) is float
    assert read(Outer, {"flag": True, "number": 1}, where="it", given={"text": "g"}) == Outer("g", True, 1.0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"text": None}, "it.text is not a text: None"),
        ({"text": "never"}, "it: text is never"),
        ({"flag": 1}, "it.flag is not true or false: 1"),
        ({"number": False}, "it.number is not a number: False"),
        ({"number": float("inf")}, "it.number is not a finite number: inf"),
        ({"many": {}}, "it.many is not a list: {}"),
        ({"many": [{"x": 1}, {"x": "1"}]}, "it.many[1].x is not a whole number: '1'"),
        ({"many": [{"x": 1, "pair": ["a"]}]}, "it.many[0].pair has 1 entry, not 2"),
        ({"named": {"a": "1"}}, "it.named.a is not a whole number: '1'"),
        ({"named": []}, "it.named is not an object: []"),
        ({"maybe": 7}, "it.maybe is not an object: 7"),
        ({"kind": True}, "it.kind is not one of a, 1: True"),
        ({"either": 0.5}, "it.either is not a whole number: 0.5"),
        ({"other": 1}, "it has an unknown key: other"),
        ({"text": 10**60}, "it.text is not a text: 100000000000000000000000000000000000000…"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(Misfit) as misfit:
        read(Outer, GOOD | changed, where="it")
    assert str(misfit.value) == words


def test_what_is_lacking_or_no_object_is_named() -> None:
    with pytest.raises(Misfit, match="it lacks flag"):
        read(Outer, {"text": "t"}, where="it")
    with pytest.raises(Misfit, match="it is not an object"):
        read(Outer, [], where="it")
