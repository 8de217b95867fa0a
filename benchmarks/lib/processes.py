"""What a process owns and says: its TCP connections as the kernel lists them, and its control socket."""

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

ESTABLISHED = "01"  # include/net/tcp_states.h


def four_tuples(pid: int) -> set[tuple[str, str]]:
    """(local, remote) in the kernel's hexadecimal form of each established TCP connection that `pid` owns."""
    inodes: set[str] = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since the directory was read
            inodes.add(os.readlink(entry.path))
    found: set[tuple[str, str]] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, remote, state, *_, inode = line.split()[:10]
            if state == ESTABLISHED and f"socket:[{inode}]" in inodes:
                found.add((local, remote))
    return found


class Control:
    """A client of a control socket: one JSON object per line in each direction."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(60)
        self._sock.connect(str(path))
        self._lines = self._sock.makefile("rb")

    def send(self, command: str, **keys: object) -> None:
        """Ask; the answers are read by `raw_answer`."""
        self._sock.sendall(json.dumps({"command": command, **keys}).encode() + b"\n")

    def raw_answer(self) -> bytes:
        """The next line, unparsed: a benchmark has no time for that while it measures."""
        return self._lines.readline()

    def ask(self, command: str, **keys: object) -> dict[str, Any]:
        """Ask and return the one answer."""
        self.send(command, **keys)
        answer: dict[str, Any] = json.loads(self.raw_answer())
        return answer

    def close(self) -> None:
        self._lines.close()
        self._sock.close()
