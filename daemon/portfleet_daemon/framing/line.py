r"""`line`: a request is what precedes \n or \r\n; a reply is followed by \n."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from portfleet_daemon.framing.base import SHORT, Answered, Exchange, Framing, bytes_only, is_awaitable


class Line(Framing):
    """Lines; the memo is how far the buffer was searched, so one-byte pieces cost O(n), not O(n²)."""

    name = "line"
    heads = (b"",) * SHORT
    tail = b"\n"

    def split(self, buffer: bytes | bytearray, memo: Any) -> tuple[Any, int, Any]:
        at = buffer.find(b"\n", memo or 0)
        if at < 0:
            return None, 0, len(buffer)
        return bytes(buffer[: at - 1 if at and buffer[at - 1] == 13 else at]), at + 1, None

    def reply(self, answer: Any) -> bytes:
        return bytes_only(answer, self.name) + b"\n"

    def split_all(self, data: bytes) -> tuple[list[Any], int]:
        requests = data.split(b"\n")
        end = len(data) - len(requests.pop())
        if b"\r" in data:
            requests = [request.removesuffix(b"\r") for request in requests]
        return requests, end

    def exchange(self, respond: Callable[[Any], Any]) -> Exchange:
        many = super().exchange(respond)
        if not (self._inherits("exchange", "split") and self._inherits("exchange", "reply")):
            return many

        def exchange(data: bytes) -> bytes | Awaitable[Any] | Answered | None:
            request, newline, rest = data.partition(b"\n")
            if rest or not newline:
                return many(data)
            if request and data[-2] == 13:
                request = request[:-1]
            answer = respond(request)
            if type(answer) is bytes:
                return answer + b"\n"
            if is_awaitable(answer):
                return answer
            return bytes_only(answer, "line") + b"\n"

        return exchange
