"""An instance as an author writes it with stock asyncio, or with uvloop. usage: stock.py asyncio|uvloop PORT"""

import asyncio
import sys

from benchmarks.daemon.asyncio_echo import LineEcho, allow_descriptors
from benchmarks.designs.handlers import echo


class SlowEcho(LineEcho):
    """The Protocol of benchmarks/daemon, and the slow handler."""

    def data_received(self, data: bytes) -> None:
        super().data_received(echo(data))


async def serve(port: int) -> None:
    """Serve on all addresses of both families until killed."""
    server = await asyncio.get_running_loop().create_server(SlowEcho, None, port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    allow_descriptors()
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(serve(int(sys.argv[2])))
    else:
        asyncio.run(serve(int(sys.argv[2])))
