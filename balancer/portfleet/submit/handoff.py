"""Whether the connections of instances can be handed off, asked of the instances themselves before a verb begins."""

from __future__ import annotations

from collections.abc import Iterable

from portfleet.apply.context import Context
from portfleet.core.desired import DesiredInstance
from portfleet.daemons.capability import cannot_hand_off


def why_not(context: Context, senders: Iterable[DesiredInstance], receivers: Iterable[DesiredInstance]) -> str:
    """Return why connections of ``senders`` cannot be handed to ``receivers``, naming an instance; "" if they can.

    A sender that does not run, or not here, has none. Raises PortfleetError if supervisord does not answer.
    """
    senders, receivers = list(senders), list(receivers)
    pids = context.pids()
    heard = context.hear([*senders, *receivers], pids)
    return cannot_hand_off([i.name for i in senders if i.name in pids], [i.name for i in receivers], heard)
