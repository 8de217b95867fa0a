"""XML-RPC over a unix socket, as much of it as supervisord speaks.

The standard library's client costs 20 ms of imports (http, email, ssl, decimal), twice what all else of `status` costs;
this is the part of http://xmlrpc.com/spec.md that supervisor/xmlrpc.py uses: strings, integers and booleans there,
those and arrays and structs back. HTTP/1.0, so that the end of the connection is the end of the answer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.parsers import expat

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class RpcError(Exception):
    """No answer, or none in XML-RPC; the message says how."""


class RpcTimeoutError(RpcError):
    """A process listens and did not answer in time."""


class RpcFault(Exception):
    """The server refused the call: ``code`` and ``words`` are its own."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


def call(
    path: Path,
    method: str,
    *arguments: str | int | bool,
    seconds: float,
    goes_on: Callable[[], bool] = lambda: False,
) -> Any:
    """Call ``method`` at the socket ``path`` and give its result; raises RpcError and RpcFault.

    RpcTimeoutError when nothing has come for ``seconds`` and ``goes_on`` says that it is not waited for as long again,
    and at once when so many wait already that the kernel lets no more in (unix(7), EAGAIN).
    """
    params = "".join(f"<param><value>{_text(argument)}</value></param>" for argument in arguments)
    body = f"<methodCall><methodName>{method}</methodName><params>{params}</params></methodCall>".encode()
    head = f"POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path))
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: _received(connection, goes_on), b""))
    except (TimeoutError, BlockingIOError):
        raise RpcTimeoutError(f"no answer within {seconds:g} s") from None
    except OSError as error:
        raise RpcError(str(error)) from None
    status, _, rest = answer.partition(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        raise RpcError(status.decode(errors="replace") or "closed without an answer")
    return _result(rest.partition(b"\r\n\r\n")[2])


def _received(connection: socket.socket, goes_on: Callable[[], bool]) -> bytes:
    while True:
        try:
            return connection.recv(65536)
        except TimeoutError:
            if not goes_on():
                raise


def _text(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return f"<boolean>{value:d}</boolean>"
    if isinstance(value, int):
        return f"<int>{value}</int>"
    return f"<string>{value.translate(_ESCAPES)}</string>"


_SCALARS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "int": int,
    "i4": int,
    "boolean": lambda text: text.strip() == "1",
    "nil": lambda _: None,
}


class _Reader:
    """Reads one methodResponse: values are collected in the list of whatever holds them."""

    def __init__(self) -> None:
        self.fault = False
        self.open: list[list[Any]] = [[]]
        self._text: list[str] = []
        self._typed = False

    def begin(self, tag: str, _: dict[str, str]) -> None:
        self._text = []
        if tag in ("array", "struct"):
            self.open.append([])
        elif tag == "value":
            self._typed = False
        elif tag == "fault":
            self.fault = True

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, tag: str) -> None:
        text = "".join(self._text)
        if tag in _SCALARS:
            self._add(_SCALARS[tag](text))
        elif tag == "name":
            self.open[-1].append(text)
        elif tag == "array":
            self._add(self.open.pop())
        elif tag == "struct":
            pairs = self.open.pop()
            self._add(dict(zip(pairs[::2], pairs[1::2], strict=True)))
        elif tag == "value" and not self._typed:
            self._add(text)  # a value without a type is a string

    def _add(self, value: Any) -> None:
        self.open[-1].append(value)
        self._typed = True


def _result(document: bytes) -> Any:
    reader, parser = _Reader(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.begin, reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(document, True)
        (result,) = reader.open[0]
    except (expat.ExpatError, ValueError) as error:
        raise RpcError(f"not an answer in XML-RPC: {error}") from None
    if reader.fault:
        raise RpcFault(int(result["faultCode"]), str(result["faultString"]))
    return result
