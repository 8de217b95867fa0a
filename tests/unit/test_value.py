"""Values behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace

import pytest

from portfleet.core.value import value


@value
class Point:
    """A value."""

    x: int
    y: int = 2
    names: tuple[str, ...] = ()
    seen: list[str] = field(default_factory=list)
    note: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is negative")


@value
class Nothing:
    """A value without a field."""


@value
class One:
    """A value with one field, and words of its own."""

    x: int

    def __repr__(self) -> str:
        return f"one {self.x}"


@dataclass(frozen=True)
class Same:
    """What `One` is compared with."""

    x: int


def test_fields_are_given_by_place_or_name_and_have_defaults() -> None:
    assert (Point(1).y, Point(1, 3).y, Point(x=1, y=4).y) == (2, 3, 4)
    assert [one.name for one in fields(Point)] == ["x", "y", "names", "seen", "note"]
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]  # the fault that is tested
    with pytest.raises(TypeError):
        Point(1, z=3)  # type: ignore[call-arg]  # the fault that is tested


def test_each_has_a_default_of_its_own() -> None:
    one, another = Point(1), Point(1)
    one.seen.append("a")
    assert another.seen == []


def test_what_is_wrong_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="negative"):
        Point(-1)
    with pytest.raises(ValueError, match="negative"):
        replace(Point(1), x=-1)


def test_they_are_equal_by_their_fields_and_only_to_their_own_kind() -> None:
    assert Point(1, note="a") == Point(1, note="b") != Point(2)
    assert Nothing() == Nothing() and hash(Nothing()) == hash(Nothing())
    assert One(1) == One(1) != One(2)
    others: list[object] = [Same(1), (1,), 1]
    assert One(1) not in others
    assert len({One(1), One(1), One(2)}) == 2
    with pytest.raises(TypeError):
        hash(Point(1))  # a list has no hash


def test_they_do_not_change() -> None:
    point = Point(1)
    with pytest.raises(FrozenInstanceError, match="'x'"):
        point.x = 2  # type: ignore[misc]  # the fault that is tested
    with pytest.raises(FrozenInstanceError, match="'z'"):
        point.z = 2  # type: ignore[attr-defined]  # the fault that is tested
    with pytest.raises(FrozenInstanceError, match="'x'"):
        del point.x
    assert replace(point, x=2) == Point(2) and point.x == 1


def test_they_are_copied_taken_apart_and_matched() -> None:
    point = Point(1, names=("a",))
    assert copy.deepcopy(point) == copy.copy(point) == point
    assert asdict(point) == vars(point) == {"x": 1, "y": 2, "names": ("a",), "seen": [], "note": ""}
    match point:
        case Point(x, y, names=(name,)):
            assert (x, y, name) == (1, 2, "a")
        case _:
            pytest.fail("no match")


def test_they_say_what_they_are() -> None:
    assert repr(Point(1)) == "Point(x=1, y=2, names=(), seen=[])"
    assert (repr(Nothing()), repr(One(3))) == ("Nothing()", "one 3")


#: Prints the classes of a process in which `status` has been loaded that should be values.
OTHERS = """
import sys
import portfleet.__main__, portfleet.commands.status, portfleet.dataplane.nft.plane
for name, module in list(sys.modules.items()):
    for one in vars(module).values() if name.startswith("portfleet.") else ():
        how = vars(one).get("__dataclass_params__") if isinstance(one, type) and one.__module__ == name else None
        if how is not None and how.frozen and not how.order:
            print(name, one.__qualname__)
"""


def test_what_status_loads_is_defined_that_way() -> None:
    done = subprocess.run([sys.executable, "-c", OTHERS], capture_output=True, text=True, check=True)
    assert done.stdout == ""
