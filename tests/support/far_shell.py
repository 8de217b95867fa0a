"""What stands for ssh between two boxes of a test: `serve PORT` runs command lines, `call PORT HOST LINE` has one run.

As with ssh the standard streams of both ends are one; exit status and stderr come back at the end. A call is one TCP
connection: first a line with the command line, then stdin; the answer is stdout, then what was said on stderr and the
exit status behind a mark.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

MARK = b"\n\0far-shell\0"


def serve(port: int) -> None:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_run, args=(connection,), daemon=True).start()


def _run(connection: socket.socket) -> None:
    stream = connection.makefile("rwb", buffering=0)
    line = stream.readline().decode().strip()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            ["sh", "-c", line], stdin=connection.fileno(), stdout=connection.fileno(), stderr=errors
        )
        code = process.wait()
        errors.seek(0)
        stream.write(MARK + b"%d\n" % code + errors.read())
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def call(port: int, host: str, line: str) -> int:
    try:
        connection = socket.create_connection((host, port))
    except OSError as error:
        print(f"connect to host {host} port {port}: {error.strerror}", file=sys.stderr)
        return 255
    connection.sendall(line.encode() + b"\n")
    threading.Thread(target=_send, args=(connection,), daemon=True).start()
    got = b""
    while data := connection.recv(1 << 16):
        got += data
        if MARK in got:
            continue
        keep = len(MARK) - 1 if MARK[:1] in got[-len(MARK) :] and not got.endswith(b"}\n") else 0
        os.write(1, got[: len(got) - keep])
        got = got[len(got) - keep :]
    out, _, rest = got.partition(MARK)
    os.write(1, out)
    code, _, errors = rest.partition(b"\n")
    os.write(2, errors)
    return int(code or 255)


def _send(connection: socket.socket) -> None:
    with open(0, "rb", buffering=0) as source, connection.makefile("wb", buffering=0) as sink:
        shutil.copyfileobj(source, sink)
    connection.shutdown(socket.SHUT_WR)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
sys.exit(call(int(sys.argv[2]), sys.argv[3], sys.argv[4]))
