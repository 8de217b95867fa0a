"""What `apply`, `up` and `down` print for programs: one object with the same keys every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from portfleet.core.errors import Exit


def outcome(
    code: Exit,
    *,
    steps: Sequence[str] = (),
    serving: Sequence[str] = (),
    failed: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    undo: str | None = None,
    ended: int = 0,
) -> dict[str, Any]:
    """Return what a change of the whole fleet came to, as JSON values; the exit status is ``code``.

    ``steps`` are those that were done, in order and words; ``serving`` the instances that take new connections now;
    ``failed`` is {instance: why it does not}; ``notes`` what is left for the operator; ``undo`` the command that undoes
    exactly this, if there is one; ``ended`` how many established connections were closed.
    """
    return {
        "ok": code is Exit.DONE,
        "code": int(code),
        "steps": list(steps),
        "serving": list(serving),
        "failed": dict(failed or {}),
        "notes": list(notes),
        "undo": undo,
        "ended": ended,
    }
