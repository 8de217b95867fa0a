"""Prints what the kernel says of this process's user and rights; a program, and a module whose ``main`` does it."""

from __future__ import annotations

import sys
from pathlib import Path

_TOLD = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")


def main() -> int:
    """Print those lines of proc_pid_status(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.split(":")[0] in _TOLD:
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
