"""What an author would write for RESP with what there is: a Protocol on uvloop, hiredis to parse, one write a read.

usage: uvloop_resp.py PORT
"""

import asyncio
import sys
from typing import Any

import hiredis
import uvloop
from benchmarks.daemon.asyncio_echo import allow_descriptors
from benchmarks.daemon.store import respond

ERROR = b"-ERR internal error\r\n"


def encode(answer: bytes | str | None) -> bytes:
    """Return an answer as RESP."""
    if type(answer) is bytes:
        return b"$%d\r\n%b\r\n" % (len(answer), answer)
    return b"$-1\r\n" if answer is None else b"+%b\r\n" % str(answer).encode()


class Resp(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.write = self.transport.write

    def pause_writing(self) -> None:
        self.transport.pause_reading()  # a client that does not read

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        gets, replies = self.reader.gets, []
        try:
            while (words := gets()) is not False:
                try:
                    replies.append(encode(respond(words)))
                except Exception:  # noqa: BLE001 (whatever a handler raises is answered, as by the daemon)
                    replies.append(ERROR)
        except hiredis.ProtocolError as error:
            replies.append(b"-ERR %b\r\n" % str(error).encode())
            self.write(b"".join(replies))
            self.transport.close()
            return
        self.write(b"".join(replies))


async def serve(port: int) -> None:
    """Serve on every IPv4 address until killed."""
    server = await asyncio.get_running_loop().create_server(Resp, "0.0.0.0", port)
    await server.serve_forever()


if __name__ == "__main__":
    allow_descriptors()
    uvloop.run(serve(int(sys.argv[1])))
