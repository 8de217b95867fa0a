"""`length`: each request and each reply is preceded by its length in bytes, an unsigned 32-bit big-endian integer."""

from __future__ import annotations

from struct import Struct
from typing import Any

from portfleet_daemon.framing.base import SHORT, Framing, FramingError, bytes_only

PREFIX = Struct(">I")


class Length(Framing):
    """A length over the limit is refused at its prefix, before any of the request is kept."""

    name = "length"
    heads = tuple(PREFIX.pack(size) for size in range(SHORT))

    def split(self, buffer: bytes | bytearray, memo: Any) -> tuple[Any, int, Any]:
        if len(buffer) < 4:
            return None, 0, None
        end = memo or PREFIX.unpack_from(buffer)[0] + 4
        if end > self.max_request:
            raise FramingError(f"request of {end} bytes, the limit is {self.max_request}")
        if len(buffer) < end:
            return None, 0, end
        return bytes(buffer[4:end]), end, None

    def split_all(self, data: bytes) -> tuple[list[Any], int]:
        requests, at, size = [], 0, len(data)
        unpack, longest = PREFIX.unpack_from, self.max_request - 4
        while size - at >= 4:
            (length,) = unpack(data, at)
            end = at + 4 + length
            if end > size or length > longest:
                break
            requests.append(data[at + 4 : end])
            at = end
        return requests, at

    def reply(self, answer: Any) -> bytes:
        data = bytes_only(answer, self.name)
        return PREFIX.pack(len(data)) + data
