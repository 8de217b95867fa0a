"""A daemon whose control socket answers with damage from a seed: `fuzzed_daemon.py PORT FOLDER SEED`.

Until FOLDER is there all is well. A byte in FOLDER/INSTANCE stands for each damaged answer. Its port echoes.
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
import socket
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fuzz import mutated
from support.fuzz_answers import ANSWERS
from support.fuzz_state import damaged, text_of
from support.odd_daemon import line


def answer(chance: random.Random) -> bytes:
    """Return the answer to a status, damaged; some have no end, or a second line."""
    proper, _ = chance.choice((ANSWERS[0], ANSWERS[0], *ANSWERS))
    said = text_of(damaged(copy.deepcopy(proper), chance), chance).encode()
    said = mutated(said, chance) if not chance.randrange(3) else said
    return said + chance.choice((b"\n", b"\n", b"\n", b"\n", b"", b"\n{}\n"))


async def main(port: int, folder: Path, seed: str) -> None:
    name = os.environ["PORTFLEET_INSTANCE"]
    path, chance = Path(os.environ["PORTFLEET_CONTROL"]), random.Random(f"{seed} {name}")

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.readline():
                if folder.exists():
                    with (folder / name).open("ab") as counted:
                        counted.write(b".")
                writer.write(answer(chance) if folder.exists() else line())
                await writer.drain()
        writer.close()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        writer.close()

    path.unlink(missing_ok=True)
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        serving = [await asyncio.start_server(echo, sock=listener), await asyncio.start_unix_server(control, str(path))]
        await asyncio.gather(*(one.serve_forever() for one in serving))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
