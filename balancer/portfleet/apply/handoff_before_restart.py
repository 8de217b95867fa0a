"""What `apply` does before it restarts an instance: its connections go to its siblings, where the daemon can."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from portfleet.core.desired import Desired, DesiredInstance
from portfleet.daemons.handoff import HandoffFailed, hand_off
from portfleet.daemons.instances import hear

#: Looks at a sender, and seconds between: connections may still come out of its accept queue.
_LOOKS, _SETTLE = 5, 0.2


def part(desired: Desired, name: str, *, pids: Mapping[str, int], out: Collection[str]) -> None:
    """Hand the connections of ``name``, whose slots are gone, to its siblings; ``pids`` are processes by instance.

    What no instance takes stays with it and may finish after SIGTERM.
    """
    service = next(want for want in desired.services.values() if any(i.name == name for i in want.instances))
    said = {one: heard.status for one, heard in hear(service.instances, pids).items() if heard.status is not None}
    receivers = [i for i in service.takers(name, said) if i.name not in out]
    mine = next(want for want in service.instances if want.name == name)
    if receivers:
        asyncio.run(_part(mine, receivers, pids))


async def _part(sender: DesiredInstance, receivers: Sequence[DesiredInstance], pids: Mapping[str, int]) -> None:
    for _ in range(_LOOKS):
        status = hear([sender], pids)[sender.name].status
        if status is None:
            return  # it has ended already
        left = status.connections
        for number, receiver in enumerate(receivers if left else ()):
            share = left * (number + 1) // len(receivers) - left * number // len(receivers)
            with suppress(HandoffFailed):  # the next look tries the next sibling with what is left
                await hand_off(sender, receiver, pids=pids, count=max(1, share))
        await asyncio.sleep(_SETTLE)
