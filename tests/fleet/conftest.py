"""Fleets' proofs that hold on every data plane are written once: ``pytestmark = pytest.mark.both_planes``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fleet_box import PLANES, on_plane


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_planes"):
        others = [pytest.param(name, marks=pytest.mark.long) for name in PLANES[1:]]
        planes = [PLANES[0], *([] if metafunc.definition.get_closest_marker("kernel_only") else others)]
        metafunc.parametrize("plane", planes, indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def plane(request: pytest.FixtureRequest) -> Iterator[str]:
    """The data plane of every fleet that a test makes, by name."""
    name: str = getattr(request, "param", PLANES[0])
    if name == "haproxy" and not _has_user(65534):
        pytest.skip("this user namespace has no second user, whose fleet it would be")
    with on_plane(name):
        yield name


def _has_user(number: int) -> bool:
    """Return whether a user of this number can be had here (user_namespaces(7): first inside, first outside, count)."""
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    return any(int(first) <= number < int(first) + int(many) for first, _, many in map(str.split, lines))
