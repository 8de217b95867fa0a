"""Compile the C parts of the benchmarks into .cache/bench, again only when a source is newer."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "bench"
FLAGS = ["-std=gnu11", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror"]


def compile_c(name: str, *sources: str, link: Sequence[str] = ()) -> Path:
    """Return the program `name`, built by $CC (default cc) from `sources` (paths from the top of the checkout).

    `link` are what the linker is given after them: libraries, say.

    Raises SystemExit with the compiler's messages when it fails, or when there is no compiler.
    """
    program = CACHE / name
    files = [ROOT / source for source in sources]
    watched = [*files, *(header for file in files for header in file.parent.glob("*.h"))]
    if program.exists() and program.stat().st_mtime > max(file.stat().st_mtime for file in watched):
        return program
    CACHE.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "cc")
    fresh = program.with_suffix(f".{os.getpid()}")  # two runs at a time must not execute a half-written file
    try:
        done = subprocess.run(
            [compiler, *FLAGS, "-o", fresh, *files, *link], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise SystemExit(f"{compiler}: not found, cannot build {name}\nhint: apt-get install gcc libc6-dev") from None
    if done.returncode:
        raise SystemExit(f"cannot build {name}:\n{done.stderr}")
    fresh.replace(program)
    return program


def load_generator() -> Path:
    """Return the load generator (`load --help` says what it does)."""
    return compile_c("load", *(f"benchmarks/lib/{part}.c" for part in ("load", "connection", "options", "report")))
