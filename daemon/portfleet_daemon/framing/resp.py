r"""`resp`: the Redis protocol, RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/).

A request is an array of bulk strings, `*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n`, or an inline command, a line of words. The
handler gets the list of arguments as bytes. Replies: bytes → bulk string, str → simple string, int → integer,
None → null, list or tuple → array of these, a RespError → error. A handler that raises answers `-ERR internal error`.
"""

from __future__ import annotations

from typing import Any

from portfleet_daemon.framing.base import SHORT, Framing, FramingError

SIZES = [b"$%d" % size for size in range(SHORT)]  # of bulk strings
HEADS = tuple(size + b"\r\n" for size in SIZES)
COUNTS = {b"*%d" % count: count for count in range(1, 65)}  # of arguments
LONGEST_NUMBER = 20  # digits, sign and room; a longer line cannot be a length


class RespError(Exception):
    """Returned by a handler: an error reply with this text, which begins with a code such as ERR."""


class Resp(Framing):
    """The memo of a partial request is (position, number of arguments, arguments that end before the position).

    The arguments themselves are taken out when all is there, in a second pass: those of 64 KiB in tiny pieces are
    objects of half a megabyte.
    """

    name = "resp"
    heads = HEADS
    tail = b"\r\n"

    def split(self, buffer: bytes | bytearray, memo: Any) -> tuple[Any, int, Any]:
        if not buffer:
            return None, 0, None
        if buffer[0] != 0x2A:  # "*"
            return self._inline(buffer, memo)
        if memo is None:
            number, at = self._number(buffer, 1)
            if at < 0:
                return None, 0, None
            if number > self.max_request:
                raise FramingError("Protocol error: invalid multibulk length")
            whole = 0
        else:
            at, number, whole = memo
        arguments: list[bytes] = []
        while whole < number:
            if at < len(buffer) and buffer[at] != 0x24:
                raise FramingError(f"Protocol error: expected '$', got {chr(buffer[at])!a}")
            size, start = self._number(buffer, at + 1)
            if start >= 0 and not 0 <= size <= self.max_request:
                raise FramingError("Protocol error: invalid bulk length")
            end = start + size
            if start < 0 or len(buffer) < end + 2:
                return None, 0, (at, number, whole)
            if buffer[end : end + 2] != b"\r\n":
                raise FramingError("Protocol error: bulk string without its end")
            if memo is None:
                arguments.append(bytes(buffer[start:end]))
            whole, at = whole + 1, end + 2
        if memo is not None:
            return self.split(buffer, None)
        return arguments or None, at, None  # `*0` is no request and has no reply

    def split_all(self, data: bytes) -> tuple[list[Any], int]:
        r"""Take requests out of the tokens between \r\n.

        A bulk string that contains \r\n, or is longer than the table, has no token of the length that the one before it
        says, so a request of such is left to `split`; every other is taken exactly as that would.
        Why not hiredis: docs/decisions/0033-resp-in-python.md.
        """
        sizes = SIZES
        tokens = data.split(b"\r\n")
        rest = tokens.pop()  # not ended yet
        requests: list[Any] = []
        five = iter(tokens)
        try:  # a run of the commonest at first, in four fifths of the time of what follows
            for count, size, name, length, argument in zip(five, five, five, five, five, strict=False):
                if count != b"*2" or sizes[len(name)] != size or sizes[len(argument)] != length:
                    break
                requests.append([name, argument])
        except IndexError:  # not in the table
            pass
        at, last = 5 * len(requests), len(tokens)
        try:
            while at < last:
                count = tokens[at]
                if count == b"*2":
                    _, size, name, length, argument = tokens[at : at + 5]
                    if sizes[len(name)] != size or sizes[len(argument)] != length:
                        break
                    requests.append([name, argument])
                    at += 5
                elif count == b"*3":
                    _, size, name, length, argument, third, value = tokens[at : at + 7]
                    if sizes[len(name)] != size or sizes[len(argument)] != length or sizes[len(value)] != third:
                        break
                    requests.append([name, argument, value])
                    at += 7
                else:
                    behind = at + 1 + 2 * COUNTS[count]
                    request = tokens[at + 2 : behind : 2]
                    if behind > last or [sizes[len(argument)] for argument in request] != tokens[at + 1 : behind : 2]:
                        break
                    requests.append(request)
                    at = behind
        except (IndexError, KeyError, ValueError):  # not in a table, or cut off
            pass
        if not requests:
            return super().split_all(data)
        return requests, len(data) - len(rest) - sum(map(len, tokens[at:])) - 2 * (last - at)

    def _inline(self, buffer: bytes | bytearray, memo: Any) -> tuple[Any, int, Any]:
        at = buffer.find(b"\n", memo or 0)
        if at < 0:
            return None, 0, len(buffer)
        return bytes(buffer[:at]).split() or None, at + 1, None

    def _number(self, buffer: bytes | bytearray, at: int) -> tuple[int, int]:
        r"""Return the integer that ends at \r\n, and the position after it; (0, -1) if it has not ended yet."""
        end = buffer.find(b"\r\n", at, at + LONGEST_NUMBER)
        if end < 0:
            if len(buffer) >= at + LONGEST_NUMBER:
                raise FramingError("Protocol error: too big a number")
            return 0, -1
        digits = bytes(buffer[at:end])
        if not digits.removeprefix(b"-").isdigit():
            raise FramingError("Protocol error: not a number")
        return int(digits), end + 2

    def reply(self, answer: Any) -> bytes:
        if isinstance(answer, bytes):
            return b"$%d\r\n%b\r\n" % (len(answer), answer)
        if isinstance(answer, str):
            return b"+%b\r\n" % _one_line(answer)
        if isinstance(answer, int):
            return b":%d\r\n" % answer
        if answer is None:
            return b"$-1\r\n"
        if isinstance(answer, list | tuple):
            return b"*%d\r\n%b" % (len(answer), b"".join(map(self.reply, answer)))
        if isinstance(answer, RespError):
            return b"-%b\r\n" % _one_line(str(answer))
        kind = type(answer).__name__
        raise TypeError(f"the handler returned {kind}; the resp framing sends bytes, str, int, None, list")

    def error(self, message: str) -> bytes:
        return b"-ERR %b\r\n" % _one_line(message)


def _one_line(text: str) -> bytes:
    return text.replace("\r", " ").replace("\n", " ").encode()
