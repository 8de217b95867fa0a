"""What an author would write with stock asyncio: a Protocol that frames lines and calls a handler.

The work per request is that of portfleet-daemon without its counters: find the newline, keep a partial request, call
`respond(request)`, add the newline. usage: asyncio_echo.py PORT
"""

import asyncio
import gc
import resource
import sys


def respond(request: bytes) -> bytes:
    """The handler: the reply is the request."""
    return request


class LineEcho(asyncio.Protocol):
    """One connection; `partial` is what came after the last newline."""

    def __init__(self) -> None:
        self.partial = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]  # declared for the general transport only

    def data_received(self, data: bytes) -> None:
        if not self.partial and data.find(b"\n") == len(data) - 1:
            self.write(respond(data[:-1]) + b"\n")
            return
        *requests, self.partial = (self.partial + data).split(b"\n")
        if requests:
            self.write(b"".join(respond(request) + b"\n" for request in requests))


async def serve(port: int) -> None:
    """Serve on all addresses of both families until killed."""
    server = await asyncio.get_running_loop().create_server(LineEcho, None, port, backlog=4096)
    gc.collect()
    gc.freeze()
    await server.serve_forever()


def allow_descriptors() -> None:
    """Raise the soft limit of descriptors to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    allow_descriptors()
    asyncio.run(serve(int(sys.argv[1])))
