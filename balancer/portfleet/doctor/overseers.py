"""supervisord and the watcher: without them nothing looks after the fleet, which is the first thing to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from portfleet.core.paths import Paths
from portfleet.core.states import Presence
from portfleet.doctor.finding import Finding, broken, fine
from portfleet.supervise import adopted
from portfleet.supervise.presence import Overseer, WatcherQuestion, ask_supervisord

#: Seconds for their answers.
_PATIENCE = 1.0


@dataclass(frozen=True)
class OverseerFacts:
    """The two as they were found; ``instances`` is how many processes of instances are alive."""

    supervisord: Overseer
    watcher: Overseer
    instances: int


def read(paths: Paths) -> OverseerFacts:
    """Ask the two; raises PortfleetError without the right to."""
    question = WatcherQuestion(paths)
    below = ask_supervisord(paths, seconds=_PATIENCE)
    return OverseerFacts(below, question.answer(seconds=_PATIENCE), len(adopted.alive(paths)))


def judge(facts: OverseerFacts) -> Iterator[Finding]:
    """Judge the two; of a fleet that is down nothing is said."""
    pair = (facts.watcher, facts.supervisord)
    if not facts.instances and all(overseer.presence is Presence.ABSENT for overseer in pair):
        return
    for overseer in pair:
        about = overseer.name.removeprefix("the ")
        if overseer.works:
            yield fine(about, "answers")
        else:
            trouble = overseer.trouble
            yield broken(about, trouble.what, why=trouble.why, mend=trouble.hint)
