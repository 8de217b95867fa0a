"""What a framing is: sans-IO rules for where a request ends and how a reply is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeGuard

FLUSH_AT = 65536  # bytes of gathered replies; more are written before the next request is answered


class FramingError(Exception):
    """The peer broke the framing's rules; the text is for the peer and the log."""


class Answered(NamedTuple):
    """What became of received bytes: `number` requests have been answered by `replies`.

    `end` is where the next request begins, behind the one that has to be awaited or has raised, if there is one.
    """

    replies: bytes
    number: int
    end: int
    waiting: Awaitable[Any] | None
    failure: BaseException | None


Exchange = Callable[[bytes], bytes | Awaitable[Any] | Answered | None]
OnePass = Callable[[bytes], tuple[bytes, int, int, Awaitable[Any] | None, BaseException | None] | None]
SHORT = 1024  # bytes; replies below are framed by a table of heads, by length


class Framing(ABC):
    """One object per process; it keeps nothing about a connection.

    `max_request` is the largest request accepted, in bytes as received (delimiter and prefix included). The connection
    enforces it; a framing that learns a length early may raise FramingError earlier.
    """

    name = "custom"
    #: What `reply` puts before bytes, by their length, and behind them. It is called for what is no bytes, or is longer
    #: than the table.
    heads: Sequence[bytes] = ()
    tail = b""
    #: Called by the fast path with the number of requests that it has answered beyond one, for the counters.
    more: Callable[[int], object] = staticmethod(lambda _: None)

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

    def split_all(self, data: bytes) -> tuple[list[Any], int]:
        """Return the whole requests at the front of `data` and how many bytes they take; raise nothing.

        It stops before a part of a request, bytes that ask for nothing and what breaks the rules, for `split` to find.
        A framing that finds many in one pass answers pipelined requests in one write; this one finds one at most.
        """
        try:
            request, end, _ = self.split(data, None)
        except BaseException:  # noqa: BLE001  split is asked again, where there are means to answer
            return [], 0
        return ([], 0) if request is None or not 0 < end <= len(data) else ([request], end)

    def one_pass(self, respond: Callable[[Any], Any]) -> OnePass:
        """Return a function that answers the whole requests at the front of received bytes in order.

        It returns the fields of Answered, as a tuple: to make an Answered takes as long as to answer a request. None if
        no request is whole. It stops at one whose answer has to be awaited or that raises, and when FLUSH_AT bytes are
        to be sent. What it raises itself is a fault of the framing.
        """
        split_all: Callable[[bytes], tuple[list[Any], int]] = self.split_all
        if not self._inherits("split_all", "split"):
            split_all = partial(Framing.split_all, self)
        reply, tail = self.reply, self.tail
        heads = self.heads if self._inherits("heads", "reply") else ()
        short, frame = len(heads), len(heads[-1]) + len(tail) if heads else 0

        def one_pass(data: bytes) -> tuple[bytes, int, int, Awaitable[Any] | None, BaseException | None] | None:
            requests, end = split_all(data)
            if not requests:
                return None
            if not 0 < end <= len(data):
                raise ValueError(f"split_all took {end} of {len(data)} bytes")
            parts: list[bytes] = []
            waiting, failure = None, None
            room = FLUSH_AT - frame * len(requests)
            try:
                for request in requests:
                    answer = respond(request)
                    if type(answer) is bytes:
                        size = len(answer)
                        if size < short:
                            parts.append(heads[size] + answer + tail)
                            room -= size
                            if room <= 0:
                                break
                            continue
                    elif is_awaitable(answer):
                        waiting = answer
                        break
                    part = reply(answer)
                    parts.append(part)
                    room -= len(part)
                    if room <= 0:
                        break
            except BaseException as error:  # noqa: BLE001  whatever a handler raises is for its connection to deal with
                failure = error
            number = len(parts)
            if number < len(requests):
                end = self._end_of(data, number + (waiting is not None or failure is not None))
            return b"".join(parts), number, end, waiting, failure

        return one_pass

    def _inherits(self, name: str, what: str) -> bool:
        """Return whether attribute `name` knows of `what`, that is, no subclass has changed `what` alone."""
        return next(kind for kind in type(self).__mro__ if name in vars(kind) or what in vars(kind)) is next(
            kind for kind in type(self).__mro__ if name in vars(kind)
        )

    def _end_of(self, data: bytes, number: int) -> int:
        end = 0
        for _ in range(number):
            end += self.split(data[end:], None)[1]
        return end

    def exchange(self, respond: Callable[[Any], Any]) -> Exchange:
        """Return the fast path: received bytes in; framed replies out if the bytes are whole requests, all answered.

        Otherwise Answered for those that were, or None if no request is whole, as with b"", which is the end of file.
        The function may raise what the handler does, or return its awaitable, if the bytes are exactly one request.
        """
        one_pass = self.one_pass(respond)

        def exchange(data: bytes) -> bytes | Answered | None:
            answered = one_pass(data)
            if answered is None:
                return None
            replies, number, end, waiting, failure = answered
            if end < len(data) or waiting is not None or failure is not None:
                return Answered(replies, number, end, waiting, failure)
            if number > 1:
                self.more(number - 1)
            return replies

        return exchange


def is_awaitable(answer: object) -> TypeGuard[Awaitable[Any]]:
    """Return whether a handler's answer has to be awaited (cheaper than inspect.isawaitable)."""
    return hasattr(type(answer), "__await__")


def bytes_only(answer: object, name: str) -> bytes:
    """Return `answer` as bytes; raise TypeError naming the framing if it is something else."""
    if isinstance(answer, bytes | bytearray):
        return bytes(answer)
    raise TypeError(f"the handler returned {type(answer).__name__}; the {name} framing sends bytes")
