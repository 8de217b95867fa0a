"""Seeded bad inputs for a daemon: the same seed gives the same inputs, so a failure is replayed by its seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from portfleet_daemon.commands import KEYS
from portfleet_daemon.handoff.wire import Kind, Parcel, pack, pack_parcels

NUMBERS = [0, 1, -1, 4, 15, 16, 255, 65535, 1 << 25, (1 << 28) - 1, (1 << 31) - 1, (1 << 32) - 1]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with a few bytes changed, cut, doubled or put in."""
    changed = bytearray(data)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0 if at < len(changed):
                changed[at] = chance.choice(b'\0\n\r*$-0129\xff{}[]"')
            case 1:
                del changed[at : at + chance.randrange(1, 9)]
            case 2:
                changed[at:at] = changed[at : at + chance.randrange(1, 9)]
            case _:
                changed[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(changed)


def streams(framing: str, *, seed: int, number: int) -> Iterator[bytes]:
    """Yield what clients of a framing send, mostly well-formed."""
    chance = random.Random(f"{framing} {seed}")
    for _ in range(number):
        words = [chance.randbytes(chance.choice([0, 1, 3, 40])) for _ in range(chance.randrange(1, 20))]
        if framing == "line":
            data = b"\n".join(words)
        elif framing == "length":
            data = b"".join(
                ((chance.choice(NUMBERS) & 0xFFFFFFFF) if not chance.randrange(20) else len(word)).to_bytes(4, "big")
                + word
                for word in words
                if word
            )
        else:
            data = b"".join(
                b"*%d\r\n" % (chance.choice(NUMBERS) if not chance.randrange(20) else 2)
                + b"$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(word), word)
                for word in words
            )
        yield mutated(data, chance)


def control_lines(*, seed: int, number: int) -> Iterator[bytes]:
    """Yield lines for a control socket: commands with values of any kind, broken JSON, bytes."""
    chance = random.Random(f"control {seed}")
    keys = sorted({key for keys in KEYS.values() for key in keys} | {"versions", "framing", "stateful", "x"})
    for _ in range(number):
        command: dict[str, Any] = {"command": chance.choice([*KEYS, "receive", "x", None])}
        for key in chance.sample(keys, chance.randrange(4)):
            command[key] = value(chance)
        match chance.randrange(10):
            case 0:
                yield b"[" * chance.randrange(60_000)
            case 1:
                yield chance.randbytes(chance.randrange(200)).replace(b"\n", b"")
            case 2:
                yield b'{"command": "evict", "rate": ' + b"9" * 5000 + b"}"
            case 3 | 4:
                yield mutated(json.dumps(command).encode(), chance).replace(b"\n", b"")
            case _:
                yield json.dumps(command).encode()


def value(chance: random.Random, depth: int = 0) -> Any:
    """Return a JSON value."""
    kinds: list[Any] = [None, True, False, "", "line", "close", "/nowhere", "\0", "ü" * 300, 0.5, 1e308, -0.0]
    kinds += [*NUMBERS, 10**400]
    if depth < 3 and not chance.randrange(4):
        inner = [value(chance, depth + 1) for _ in range(chance.randrange(3))]
        return inner if chance.randrange(2) else {str(number): item for number, item in enumerate(inner)}
    return chance.choice(kinds)


def handoff_messages(*, seed: int, number: int) -> Iterator[tuple[bytes, int]]:
    """Yield what a sender writes, mostly one message, and how many descriptors go with it."""
    chance = random.Random(f"handoff {seed}")
    for _ in range(number):
        count = chance.choice([0, 1, 1, 2, 3])
        parcels = [
            Parcel(
                partial=chance.randbytes(chance.choice([0, 1, 20])).replace(b"\n", b""),
                unsent=chance.randbytes(chance.choice([0, 0, 5])),
                state=chance.choice([None, None, b"", b"7"]),
                eof=not chance.randrange(5),
            )
            for _ in range(count)
        ]
        kind = chance.choice([*Kind, Kind.CONNECTIONS, Kind.CONNECTIONS, Kind.CONNECTIONS])
        body = pack_parcels(parcels, version=2) if kind is Kind.CONNECTIONS or not chance.randrange(3) else b""
        data = pack(kind, count=chance.choice([count, count, count, *NUMBERS[:4:3]]), sequence=1, body=body)
        if not chance.randrange(6):
            data = data[:8] + chance.choice(NUMBERS[:2] + NUMBERS[3:]).to_bytes(4, "big") + data[12:]
        yield (mutated(data, chance) if chance.randrange(2) else data) or b"\0", count
