"""XML-RPC, against the standard library's: what one writes the other reads."""

from __future__ import annotations

import socket
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portfleet.supervise import rpc

#: What XML 1.0 can hold; a carriage return becomes a line feed when it is read.
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff") | st.just("\n"))
VALUE = st.recursive(
    TEXT | st.booleans() | st.integers(-(2**31), 2**31 - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)

Answer = Callable[[bytes], bytes]
OK = b"HTTP/1.0 200 OK\r\nContent-Type: text/xml\r\n\r\n"


class Server:
    """Answers on a unix socket as told: ``answer`` makes the whole reply of the request's body."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer: Answer = lambda _: b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as file:
                head = dict(line.split(b": ", 1) for line in iter(file.readline, b"\r\n") if b": " in line)
                if not head:
                    return
                connection.sendall(self.answer(file.read(int(head[b"Content-Length"]))))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
            last.sendall(b"\r\n")
        self._thread.join(10)
        self._listener.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("rpc") / "s")
    try:
        yield made
    finally:
        made.close()


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(TEXT | st.booleans() | st.integers(-(2**31), 2**31 - 1), max_size=4), result=VALUE)
def test_what_is_asked_and_answered_arrives(server: Server, arguments: list[Any], result: Any) -> None:
    asked = []

    def answer(body: bytes) -> bytes:
        asked.append(xmlrpc.client.loads(body))
        return OK + xmlrpc.client.dumps((result,), methodresponse=True).encode()

    server.answer = answer

    assert rpc.call(server.path, "supervisor.x", *arguments, seconds=10) == result
    assert asked == [(tuple(arguments), "supervisor.x")]


def test_a_fault_is_told_with_its_code(server: Server) -> None:
    server.answer = lambda _: OK + xmlrpc.client.dumps(xmlrpc.client.Fault(91, "STILL_RUNNING: x")).encode()
    with pytest.raises(rpc.RpcFault) as caught:
        rpc.call(server.path, "x", seconds=10)
    assert (caught.value.code, caught.value.words) == (91, "STILL_RUNNING: x")


@pytest.mark.parametrize(
    "reply",
    [b"", b"HTTP/1.0 500 Internal Server Error\r\n\r\n", b"nonsense", OK, OK + b"<a>", OK + b"<methodResponse/>"],
)
def test_what_is_no_answer_is_an_error(server: Server, reply: bytes) -> None:
    server.answer = lambda _: reply
    with pytest.raises(rpc.RpcError, match=r"."):
        rpc.call(server.path, "x", seconds=10)


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(rpc.RpcError, match="No such file"):
        rpc.call(tmp_path / "none", "x", seconds=10)
