"""What a framing is: sans-IO rules for where a request ends and how a reply is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeGuard


class FramingError(Exception):
    """The peer broke the framing's rules; the text is for the peer and the log."""


class Framing(ABC):
    """One object per process; it keeps nothing about a connection.

    `max_request` is the largest request accepted, in bytes as received (delimiter and prefix included). The connection
    enforces it; a framing that learns a length early may raise FramingError earlier.
    """

    name = "custom"

    def __init__(self, *, max_request: int) -> None:
        self.max_request = max_request

    @abstractmethod
    def split(self, buffer: bytes | bytearray, memo: Any) -> tuple[Any, int, Any]:
        """Take the first request off `buffer`.

        Returns `(request, end, None)` if `buffer[:end]` is a whole request, with end > 0; `(None, end, None)` if these
        bytes ask for nothing and are to be skipped; and `(None, 0, memo)` if the request is not all there, where `memo`
        is anything that saves work: it comes back with the same bytes and more behind them, and is None at a
        request's first bytes. The request must not refer to `buffer`. Raises FramingError.
        """

    @abstractmethod
    def reply(self, answer: Any) -> bytes:
        """Return the bytes to send for what a handler returned; raise TypeError for what cannot be sent."""

    def error(self, message: str) -> bytes | None:  # noqa: ARG002  the parameter is for those that override it
        """Return an error reply of one line; None, which closes the connection, if the protocol has none."""
        return None

    def exchange(self, respond: Callable[[Any], Any]) -> Callable[[bytes], bytes | Awaitable[Any] | None]:
        """Return the fast path: received bytes in, framed reply out, None unless they are exactly one request.

        The fast path may return the handler's awaitable unframed. It is called with b"" at end of file.
        """
        split, reply = self.split, self.reply

        def exchange(data: bytes) -> bytes | Awaitable[Any] | None:
            try:
                request, end, _ = split(data, None)
            except BaseException:  # noqa: BLE001  the slow path meets it again, and has the means to answer
                return None
            if request is None or end != len(data):
                return None
            answer = respond(request)
            if is_awaitable(answer):
                return answer
            return reply(answer)

        return exchange


def is_awaitable(answer: object) -> TypeGuard[Awaitable[Any]]:
    """Return whether a handler's answer has to be awaited (cheaper than inspect.isawaitable)."""
    return hasattr(type(answer), "__await__")


def bytes_only(answer: object, name: str) -> bytes:
    """Return `answer` as bytes; raise TypeError naming the framing if it is something else."""
    if isinstance(answer, bytes | bytearray):
        return bytes(answer)
    raise TypeError(f"the handler returned {type(answer).__name__}; the {name} framing sends bytes")
