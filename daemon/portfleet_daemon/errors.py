"""Mistakes an operator can fix, each with its exit code."""

from __future__ import annotations

EXIT_STOPPED = 0
EXIT_CONFIG = 2
EXIT_PORT = 3


class OperatorError(Exception):
    """What is wrong and where; `hint` says what to do now."""

    exit_code = 1
    code = "refused"  # for programs that asked over the control socket (docs/control.md)

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(OperatorError):
    """A flag, the handler, the framing: starting again without a change is pointless."""

    exit_code = EXIT_CONFIG


class ListenError(OperatorError):
    """A port or the control socket cannot be had."""

    exit_code = EXIT_PORT


class Refused(OperatorError):
    """A command over the control socket that cannot be carried out."""


class Busy(Refused):
    """A hand-off that cannot begin while another one of this process goes on."""

    code = "busy"
