"""Fleets' proofs that hold on every data plane are written once: ``pytestmark = pytest.mark.both_planes``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fleet_box import PLANES, on_plane


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_planes"):
        planes = PLANES[:1] if metafunc.definition.get_closest_marker("kernel_only") else PLANES
        metafunc.parametrize("plane", planes, indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def plane(request: pytest.FixtureRequest) -> Iterator[str]:
    """The data plane of every fleet that a test makes, by name."""
    name: str = getattr(request, "param", PLANES[0])
    with on_plane(name):
        yield name
