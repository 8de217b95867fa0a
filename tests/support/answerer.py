"""A server for tests of the rules, run as a program in a box: `answerer.py PORT NAME` replies `NAME LINE` to each line.

It listens on every address of both families and prints its pid when it does. With `--first` it closes first: one reply,
then the end, so that TIME_WAIT is on the server's side. With `--backlog N` the accept queue holds N, and with `--later
SECONDS` each answer waits so long.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket


async def serve(options: argparse.Namespace) -> None:
    """Answer until killed."""
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", options.port))
    listener.listen(options.backlog)
    name = options.name.encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                await asyncio.sleep(options.later)
                writer.write(name + b" " + line)
                await writer.drain()
                if options.first:
                    break
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(answer, sock=listener, backlog=options.backlog)
    print(os.getpid(), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("name")
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--later", type=float, default=0)
    parser.add_argument("--backlog", type=int, default=1024)
    asyncio.run(serve(parser.parse_args()))
