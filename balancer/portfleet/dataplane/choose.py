"""Makes the data plane that a fleet asks for: the only place that names one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portfleet.core.paths import Paths
from portfleet.dataplane.nft.plane import NftPlane

if TYPE_CHECKING:
    from portfleet.dataplane.interface import DataPlane


def choose(paths: Paths) -> DataPlane:
    """Return the data plane of the fleet at ``paths``."""
    return NftPlane(paths.run / "rules.json")
