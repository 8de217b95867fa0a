"""Servers for tests of the rules, run as a program in a box: `answerer.py NAME:PORT…` replies `NAME LINE` to each line.

Each is a process of its own, listens on every address of both families and prints `NAME PID` when it does. With
`--first` it closes first: one reply, then the end, so that TIME_WAIT is on the server's side. With `--backlog N` the
accept queue holds N, with `--later SECONDS` each answer waits so long.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket


async def serve(name: str, port: int, options: argparse.Namespace) -> None:
    """Answer until killed."""
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    listener.listen(options.backlog)
    prefix = name.encode() + b" "

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                await asyncio.sleep(options.later)
                writer.write(prefix + line)
                await writer.drain()
                if options.first:
                    break
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(answer, sock=listener, backlog=options.backlog)
    os.write(1, f"{name} {os.getpid()}\n".encode())  # in one piece, as others print too
    await server.serve_forever()


def main() -> None:
    """Fork a server for each NAME:PORT, which costs a quarter of starting four interpreters."""
    parser = argparse.ArgumentParser()
    parser.add_argument("servers", nargs="+", metavar="NAME:PORT")
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--later", type=float, default=0)
    parser.add_argument("--backlog", type=int, default=1024)
    options = parser.parse_args()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for server in options.servers:
        name, _, port = server.rpartition(":")
        if os.fork() == 0:
            asyncio.run(serve(name, int(port), options))
    signal.pause()


if __name__ == "__main__":
    main()
