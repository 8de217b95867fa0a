"""What a data plane that can does for the boxes that share the service's addresses: send packets on between them."""

from __future__ import annotations

from typing import Protocol

from portfleet.core.model import Fleet
from portfleet.dataplane.interface import Address


class Forwarding(Protocol):
    """Sends packets on to the box of their client's slot, by what `[forward]` of a fleet says.

    What is loaded stays in the kernel when this process ends. Methods raise PortfleetError.
    """

    def own(self, fleet: Fleet) -> str | None:
        """Return the box that this one is; None if it is a balancer alone."""

    def box_of(self, fleet: Fleet, service: str, address: Address, port: int | None) -> str | None:
        """Return the box that a client's new connections to a service go to; None if that cannot be told."""

    def text(self, fleet: Fleet) -> str:
        """Return what `load` would do in the data plane's own language."""

    def load(self, fleet: Fleet) -> None:
        """Send packets on by ``fleet`` from now on, in one step from what was before."""

    def loaded(self) -> str:
        """Return the digest of what is loaded; "" if nothing is."""

    def digest(self, fleet: Fleet) -> str:
        """Return the digest of what `load` would load."""

    def holds(self) -> bool:
        """Return whether what this process has loaded is still there as it was."""

    def follow(self) -> None:
        """Follow other boxes whose hardware addresses have changed."""

    def remove(self) -> None:
        """Send nothing on any more."""
