"""Makes the data plane that a fleet asks for: the only place that names one."""

from __future__ import annotations

from portfleet.core.paths import Paths
from portfleet.dataplane.interface import DataPlane
from portfleet.dataplane.nft.plane import NftPlane


def choose(paths: Paths) -> DataPlane:
    """Return the data plane of the fleet at ``paths``."""
    return NftPlane(paths.run / "rules.json")
