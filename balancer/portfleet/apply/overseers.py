"""What a verb says of supervisord and the watcher before anything else, and when it is refused for their sake."""

from __future__ import annotations

import time

from portfleet.apply.context import Context
from portfleet.core.errors import PortfleetError
from portfleet.core.program import WATCHER
from portfleet.core.states import AT_REST, Presence
from portfleet.supervise.presence import Overseer, WatcherQuestion, ask_supervisord, await_socket, troubles

#: Seconds for an answer. The watcher's loop is busy for the longest when it puts back the rules of a large fleet (2 s).
_PATIENCE = 5.0
#: Seconds for a watcher that was started to answer: supervisord gives one up that fails after 6.
_START = 10.0


def look_after(context: Context, *, watcher: bool, supervisord: bool, say: bool) -> None:
    """Say which of the two does not work; raise PortfleetError if the verb needs it.

    ``watcher``: an operation, which the watcher carries out; ``supervisord``: a verb that waits for supervisord's
    answers; ``say``: what does not work and is not needed. A fleet that is down is no trouble: the verb says itself
    what that means for it.
    """
    question = WatcherQuestion(context.paths)
    below = ask_supervisord(context.paths, seconds=_PATIENCE)
    if (watcher or supervisord) and below.presence is Presence.UNREACHABLE:  # or it has just ended
        await_socket(context.paths, context.say)
        below = ask_supervisord(context.paths, seconds=_PATIENCE)
    above = question.answer(seconds=_PATIENCE)
    if watcher and not above.works:
        _refuse(above)
    if supervisord and below.presence in (Presence.HUNG, Presence.SUSPENDED, Presence.UNREACHABLE):
        _refuse(below)
    if not say or (below.presence in (Presence.ABSENT, Presence.ENDING) and above.presence is Presence.ABSENT):
        return
    for trouble in troubles(below, above):
        context.say(f"{trouble.words}\nhint: {trouble.hint}")


def watcher_of(context: Context) -> Overseer:
    """Return the watcher as it shows itself now."""
    return WatcherQuestion(context.paths).answer(seconds=_PATIENCE)


def await_watcher(context: Context) -> Overseer:
    """Return the watcher when it answers and has found the processes, so that a death would be noticed.

    Return it as it is when it is clear that it will not answer, or has not found them within ten seconds; that is said.
    """
    deadline = time.monotonic() + _START
    while True:
        question = WatcherQuestion(context.paths)
        found = question.answer(seconds=_PATIENCE)
        if found.presence is Presence.SUSPENDED:
            return found
        if found.works:
            if question.said.get("looked", True):  # a watcher of an earlier version does not say it
                return found
        elif (program := context.supervisor.programs().get(WATCHER)) is None or program.state in AT_REST:
            return found
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if found.works:
        context.say("the watcher has not found the processes yet: it would not notice that one ends")
    return found


def _refuse(overseer: Overseer) -> None:
    raise PortfleetError(overseer.trouble.words, hint=overseer.trouble.hint)
