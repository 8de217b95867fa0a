"""What a data plane that can does while established connections move to another box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from portfleet.core.frozen import Flow


class Relocation(Protocol):
    """What a data plane does while established connections move between boxes. Methods raise PortfleetError.

    On the box that they leave: `flow`, `hold`, then `release` or `forward`. On the box that gets them: `admit`.
    """

    def flow(self, local: str, port: int, peer: str, peer_port: int) -> Flow | None:
        """Return the connection of a socket with these ends; None if it did not come from outside by a service."""

    def hold(self, flows: Sequence[Flow], *, seconds: float) -> None:
        """Let no packet of ``flows`` in or out, for ``seconds`` at most."""

    def release(self, flows: Sequence[Flow]) -> None:
        """Let the packets of held ``flows`` pass again."""

    def forward(self, flows: Sequence[Flow], box: str) -> None:
        """Send the packets of held ``flows`` on to the box at the address ``box`` from now on; forget them here."""

    def take_back(self, flows: Sequence[Flow]) -> None:
        """Send packets of ``flows``, which this box has now, on to no box any more."""

    def reach(self, box: str) -> str:
        """Return why packets cannot be sent on to the address ``box``; "" if they can."""

    def admit(self, flows: Sequence[Flow], addresses: Sequence[str]) -> None:
        """Have packets of ``flows`` come to sockets at ``addresses`` of this box, one for each, and to their ports."""

    def dismiss(self, flows: Sequence[Flow]) -> None:
        """Forget ``flows``; those that are not known are none."""
