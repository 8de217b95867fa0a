"""An unprivileged local user at work against a fleet: `adversary_process.py HOME SEED`, until its input ends.

It opens and locks every file of the fleet's state, talks to every socket, puts links in the way, and signals every
process; and prints as JSON how often it tried, and what it got. Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def paths(home: Path) -> Iterator[Path]:
    """Yield what can be seen of a fleet's state, and what is known to be there."""
    for name in ("table.lock", "watch.lock", "service-echo.lock", "watch.sock", "supervisor.sock", "echo-blue-1.sock"):
        yield home / "run" / name
    yield from (home / "lib" / name for name in ("journal.json", "journal.lock", "supervisord.conf"))
    for part in ("run", "lib"):  # the config and logs are for everybody
        for folder, _, names in os.walk(home / part):
            yield from (Path(folder) / name for name in names)


def attempt(path: Path, chance: random.Random) -> str:
    """Try one thing with one path; return what was got."""
    match chance.randrange(4):
        case 0:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return "locked"
        case 1:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(path))
                connection.sendall(b'{"command": "drain"}\n' * 100)
                return "talked to"
        case 2:
            path.with_name(f"link-{chance.randrange(9)}").symlink_to("/etc/passwd")
            return "put a link beside"
        case _:
            path.rename(path.with_name("mine"))
            return "renamed"


def main(home: Path, seed: int) -> None:
    chance, tries, got = random.Random(seed), 0, set[str]()
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        for path in paths(home):
            tries += 1
            with suppress(OSError):
                got.add(f"{attempt(path, chance)} {path}")
        for pid in os.listdir("/proc"):
            if pid.isdigit() and int(pid) != os.getpid():
                tries += 1
                with suppress(OSError):
                    os.kill(int(pid), 0)
                    got.add(f"may signal {Path('/proc', pid, 'cmdline').read_bytes()!r}")
    print(json.dumps({"tries": tries, "got": sorted(got)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
