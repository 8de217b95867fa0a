"""What has to be there before supervisord starts at boot: its config, its programs, and our rules in the kernel.

Supervisord starts every program it knows at once. With rules and slots in place before, an early client's SYN meets the
guard, is dropped while no instance listens, and is answered when the client sends it again; without, it is refused.
"""

from __future__ import annotations

from portfleet.apply.context import Context
from portfleet.apply.converge import look
from portfleet.core import steps
from portfleet.core.errors import PortfleetError

#: What of a plan needs no supervisord and takes nothing away. The journal too: without it `up` would look upon the
#: rules loaded here as those of a fleet whose journal is lost.
_BEFORE = (steps.LoadRules, steps.PointSlots, steps.OpenListens, steps.WriteJournal)


def prepare(context: Context) -> None:
    """Lay everything out for a supervisord that is about to start; raises PortfleetError if one runs already."""
    if context.supervisor.running():
        raise PortfleetError("supervisord is running already", hint="end it first with: portfleet down")
    desired, _, plan = look(context)
    executor = context.executor(desired, say=context.say)
    for words in executor.programs.files.lay_out():
        context.say(words)
    executor.run(step for step in plan.steps if isinstance(step, _BEFORE) and not _forgets(step))


def _forgets(step: steps.Step) -> bool:
    return isinstance(step, steps.WriteJournal) and bool(step.forget)
