"""A daemon's control socket: one JSON object a line, asked and answered (docs/control.md)."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import Generic, TypeVar

from portfleet.daemons.answers import ControlError, ImproperAnswer, read_done
from portfleet.daemons.exchange import Control, Exchange, Verdict
from portfleet.daemons.talk import carry_out

T = TypeVar("T")


class Ask(Exchange, Generic[T]):
    """One command and the line that answers it, read by ``read`` of daemons/answers.py.

    ``answer`` is None until there is a proper one, ``failure`` says why there is none; ``absent``: no process listens;
    ``got``: all that came.
    """

    def __init__(self, place: Control, request: bytes, read: Callable[[bytes], T]) -> None:
        super().__init__(place)
        self.place: Control = place
        self.request = request
        self.answer: T | None = None
        self.failure: ControlError | None = None
        self.absent = False
        self.got = b""
        self._read = read

    def unreachable(self, code: int) -> Verdict:
        self.absent = code in (errno.ENOENT, errno.ECONNREFUSED)
        return super().unreachable(code)

    def received(self, data: bytes) -> Verdict:
        self.got += data
        if not data:
            return f"{self.place}: closed without an answer"
        if b"\n" not in data:
            return None
        line, _, more = self.got.partition(b"\n")
        try:
            if more:
                raise ImproperAnswer("it says more than it was asked")
            self.answer = self._read(line)
        except ControlError as error:
            self.failure = error
            return str(error)
        return ""


def request(command: str, **arguments: float) -> bytes:
    """Return a command's line."""
    return json.dumps({"command": command, **arguments}).encode() + b"\n"


def ask(place: Control, command: str, *, seconds: float = 0.5, **arguments: float) -> None:
    """Send a command and see it accepted; raises ControlError (no proper answer within ``seconds``, or a refusal)."""
    exchange = Ask(place, request(command, **arguments), read_done)
    (trouble,) = carry_out([(exchange, seconds)])
    if trouble:
        raise exchange.failure or ControlError(trouble)
