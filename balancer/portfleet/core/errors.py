"""What went wrong, for an operator: what, where, and what to do now. Nothing here ever shows a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from portfleet.core.printable import quantity
from portfleet.core.value import value


class Exit(IntEnum):
    """Exit codes of every verb; other programs rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2  #: usage or config
    KERNEL = 3  #: the kernel refused; nothing was applied
    TIMEOUT = 4
    LOCKED = 5
    CHANGES = 6  #: `plan --check`, `forward check`: changes wait
    DEGRADED = 7  #: `status`: an instance that is to serve does not
    UNWATCHED = 8  #: `status`: the watcher or supervisord does not run, or does not answer
    UNSERVED = 9  #: `status`: a service has no instance that serves


@value
class Problem:
    """One thing that is wrong in a config: its path such as ``service.echo.ports``, what is wrong, what to do."""

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (f"\n  hint: {self.hint}" if self.hint else "")


class PortfleetError(Exception):
    """An error with an exit code and a hint, printed as ``portfleet: cannot …`` and ``hint: …``."""

    def __init__(self, message: str, *, hint: str = "", code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code

    def __str__(self) -> str:
        return self.message + (f"\nhint: {self.hint}" if self.hint else "")


class ConfigError(PortfleetError):
    """Every problem of a config at once."""

    def __init__(self, problems: Sequence[Problem], *, source: str) -> None:
        count = quantity(len(problems), "problem")
        super().__init__(f"{source}: {count}\n" + "\n".join(map(str, problems)), code=Exit.USAGE)
        self.problems = tuple(problems)
