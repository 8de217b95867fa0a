"""Makes the data plane that a fleet asks for: the only place that names one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portfleet.core.model import Fleet
    from portfleet.core.paths import Paths
    from portfleet.dataplane.forwarding import Forwarding
    from portfleet.dataplane.interface import DataPlane


def choose(paths: Paths, fleet: Fleet) -> DataPlane:
    """Return the data plane of ``fleet``, whose files are at ``paths``."""
    if fleet.dataplane == "haproxy":
        from portfleet.dataplane.haproxy.plane import HaproxyPlane  # one plane's modules are of no use to the other

        return HaproxyPlane(paths.run / "haproxy", log=paths.log, processes=fleet.haproxy_processes)
    from portfleet.dataplane.nft.plane import NftPlane

    return NftPlane(paths.run / "rules.json")


def forwarding() -> Forwarding:
    """Return what sends packets on to other boxes: the kernel, whatever carries connections to instances."""
    from portfleet.dataplane.nft.forwarding import NftForwarding

    return NftForwarding()
