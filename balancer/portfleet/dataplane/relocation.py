"""What a data plane that can does while established connections move to another box."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from portfleet.core.frozen import Flow


class Relocation(Protocol):
    """What a data plane does while established connections move between boxes. Methods raise PortfleetError.

    On the box that they leave: `flow`, `hold`, then `release`, after `forward` if they are to go on elsewhere. On the
    box that gets them: `admit`.
    """

    def flow(self, sock: socket.socket) -> Flow | None:
        """Return the connection of a socket; None if it did not come from outside by a service. Raises OSError."""

    def hold(self, flows: Sequence[Flow], *, seconds: float) -> None:
        """Let no packet of ``flows`` in or out, for ``seconds`` at most."""

    def prolong(self, flows: Sequence[Flow], *, seconds: float) -> None:
        """Let no packet of held ``flows`` in or out for longer: for ``seconds`` from now at most."""

    def release(self, flows: Sequence[Flow]) -> None:
        """Let the packets of held ``flows`` pass again, to where `forward` sends them or here."""

    def forward(self, flows: Sequence[Flow], box: str) -> None:
        """Send the packets of held ``flows`` on to the box at the address ``box``, once they are not held any more."""

    def take_back(self, flows: Sequence[Flow]) -> None:
        """Send packets of ``flows``, which this box has now, on to no box any more."""

    def reach(self, box: str) -> str:
        """Return why packets cannot be sent on to the address ``box``; "" if they can."""

    def admit(self, flows: Sequence[Flow]) -> None:
        """Have packets of ``flows`` come to the address and port that each has on this box."""

    def dismiss(self, flows: Sequence[Flow]) -> None:
        """Forget ``flows``; those that are not known are none."""
