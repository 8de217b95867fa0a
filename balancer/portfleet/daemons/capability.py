"""Whether instances can hand their connections to others, by what each says on its control socket. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from portfleet.core.status import Status
from portfleet.core.value import value


@value
class Heard:
    """What an instance said of itself: its ``status``, or the ``trouble`` in words.

    ``speaks``: it has a control socket; False for a daemon without one, and for an instance that was not asked.
    """

    status: Status | None
    trouble: str = ""
    speaks: bool = True


def cannot_hand_off(senders: Iterable[str], receivers: Iterable[str], heard: Mapping[str, Heard]) -> str:
    """Return why one of ``senders`` cannot hand its connections to any of ``receivers``, naming it; "" if all can.

    One that has a control socket and does not answer may hang for a moment: nothing is known of it, so it is no reason.
    """
    receivers = list(receivers)
    for sender in senders:
        if reason := _unable(sender, heard[sender]):
            return reason
        mine, others = heard[sender].status, [name for name in receivers if name != sender]
        reasons = [_misfit(sender, mine, name, heard[name]) for name in others] if mine is not None else []
        if reasons and all(reasons):
            return reasons[0]
    return ""


def _unable(name: str, heard: Heard) -> str:
    if heard.status is not None and not heard.status.handoff:
        return f"the daemon of {name} says that it cannot hand off connections"
    if heard.status is None and not heard.speaks:
        return f"the daemon of {name} cannot hand off connections ({heard.trouble})"
    return ""


def _misfit(sender: str, mine: Status, receiver: str, heard: Heard) -> str:
    """Return why ``receiver`` cannot take over the connections of ``sender``; "" if it can, or may hang."""
    if heard.status is None or not heard.status.handoff or mine.hands_off_to(heard.status):
        return _unable(receiver, heard)
    versions = [", ".join(map(str, sorted(status.handoff))) for status in (mine, heard.status)]
    return f"{sender} and {receiver} speak no common version of the hand-off protocol ({versions[0]}; {versions[1]})"
