"""A worker process: `python -m portfleet_daemon.worker DESCRIPTOR MODULE:ATTR`. Started by workers.py only.

It ends when the daemon closes its end of the pair. Signals that stop a process group are the daemon's to act on.
"""

from __future__ import annotations

import pickle
import signal
import socket
import sys
from typing import Any

from portfleet_daemon.failures import place_of, traceback_of
from portfleet_daemon.handler import load_handler
from portfleet_daemon.workers import PREFIX, pack


def main() -> None:
    """Answer requests one after the other."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    respond = load_handler(sys.argv[2], workers=1).respond
    assert respond is not None  # noqa: S101  load_handler refuses classes when there are workers
    with socket.socket(fileno=int(sys.argv[1])) as sock, sock.makefile("rb") as stream:
        sock.sendall(pack("ready"))
        while prefix := stream.read(PREFIX.size):
            sock.sendall(_answer(respond, stream.read(PREFIX.unpack(prefix)[0])))


def _answer(respond: Any, data: bytes) -> bytes:
    """Return None and the handler's answer, or where it raised and its traceback."""
    try:
        return pack((None, respond(pickle.loads(data))))  # noqa: S301  from our own parent
    except BaseException as error:  # noqa: BLE001  whatever a handler raises is the request's answer, not our end
        return pack((place_of(error), traceback_of(error)))


if __name__ == "__main__":
    main()
