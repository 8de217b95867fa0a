"""Runs `portfleet relocate send` for the watcher: in a process of its own, as it blocks, and hears what it says."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from portfleet.core.desired import DesiredInstance
from portfleet.core.paths import Paths

#: Seconds that a batch under way may take to end after it was asked to.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Relocated:
    """How many connections have ``moved``.

    When ``done``: in how many ``seconds``, how many ``stayed`` by reason, and ``why`` it ended early.
    """

    moved: int = 0
    done: bool = False
    seconds: float = 0.0
    stayed: Mapping[str, int] = field(default_factory=dict)
    why: str = ""


async def relocate(
    sender: DesiredInstance, box: str, *, count: int, ssh: str, paths: Paths
) -> AsyncGenerator[Relocated, None]:
    """Move ``count`` connections to the instance of the same name on ``box``; yield how far it is, last with ``done``.

    Closed early, it has the batch that is under way finished, and no other begun.
    """
    home = ["--home", str(paths.home)] if paths.home else []
    words = [*home, "--config", str(paths.config), "relocate", "send", f"{sender.instance.service}/{sender.name}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "portfleet", *words, "--box", box, "--count", str(count),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PORTFLEET_SSH": ssh} if ssh else None,
    )  # fmt: skip
    out, err = cast(asyncio.StreamReader, process.stdout), cast(asyncio.StreamReader, process.stderr)
    errors = asyncio.create_task(err.read())
    last = Relocated()
    try:
        while line := await out.readline():
            last = _read(line)
            yield last
        await process.wait()
        if not last.done:
            said = (await errors).decode(errors="replace").strip().splitlines()
            yield Relocated(last.moved, done=True, why=said[0] if said else f"it ended with {process.returncode}")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await asyncio.gather(out.read(), process.wait())
        errors.cancel()


def _read(line: bytes) -> Relocated:
    found = json.loads(line)
    return Relocated(
        int(found["moved"]),
        done=found.get("done") is True,
        seconds=float(found.get("seconds", 0.0)),
        stayed=found.get("stayed", {}),
        why=found.get("why", ""),
    )
