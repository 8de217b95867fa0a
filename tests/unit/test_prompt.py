"""Clients of /metrics that say nothing, half a request, or read nothing: they keep no other client out."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from portfleet.metrics import prompt
from portfleet.metrics.prompt import STREAM, Prompt
from support.sandbox import wait_for

pytestmark = pytest.mark.timed
_GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer(scope: dict[str, object], _: object, send: object) -> None:
    """Answer at length; a stream goes on for a second and a half."""
    import asyncio

    assert callable(send)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == STREAM:
        for _ in range(15):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.1)  # the stream's own pace
    await send({"type": "http.response.body", "body": b"x" * (1 << 24 if scope["path"] == "/long" else 1)})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Serve with room for eight connections."""
    monkeypatch.setattr(prompt, "SECONDS", 0.3)
    config = uvicorn.Config(
        answer, http=Prompt, lifespan="off", log_level="error", limit_concurrency=9, timeout_graceful_shutdown=1
    )  # fmt: skip
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        serving.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        serving.join(10)


def get(port: int, path: bytes = b"/") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(_GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % path)
        found = b""
        while data := client.recv(65536):
            found += data
        return found


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nX-A", _GET % b"/" + b"GET", _GET % b"/long"])
def test_connections_that_get_nowhere_end_and_others_are_answered(port: int, said: bytes) -> None:
    held = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(8)]
    for client in held:
        client.sendall(said)
    try:
        wait_for("there is room again", lambda: get(port).startswith(b"HTTP/1.1 200"), seconds=5)
    finally:
        for client in held:
            client.close()


def test_a_stream_goes_on(port: int) -> None:
    began = time.monotonic()
    assert get(port, STREAM.encode()).startswith(b"HTTP/1.1 200")
    assert time.monotonic() - began > 1.4
