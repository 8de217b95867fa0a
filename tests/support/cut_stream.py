"""Stands between a stream to another box and the process that made it: `FILE COMMAND…`; cuts it once, in mid-sentence.

While FILE is there it names the moment, the first line that begins with that word ("batch", "prepared", "commit" or
"done"): the line is not passed on, FILE is removed, and both ends see the stream end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO


def passed(source: IO[bytes], sink: Callable[[bytes], None], file: Path) -> None:
    """Pass on lines until the source ends, or the stream is cut."""
    for line in source:
        if file.exists() and b'{"%s":' % file.read_text().encode() in line:
            file.unlink()
            os._exit(255)
        sink(line)


def main(file: Path, command: list[str]) -> int:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        far, near = process.stdin, process.stdout
        assert far is not None and near is not None

        def there(line: bytes) -> None:
            far.write(line)
            far.flush()

        def forward() -> None:
            passed(sys.stdin.buffer, there, file)
            far.close()

        def back(line: bytes) -> None:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

        threading.Thread(target=forward, daemon=True).start()
        passed(near, back, file)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
