"""xxHash of 32 bits, as HAProxy's converter ``xxh32`` computes it (github.com/Cyan4973/xxHash, doc/xxhash_spec.md)."""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_P1, _P2, _P3, _P4, _P5 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1


def xxh32(data: bytes, seed: int = 0) -> int:
    """Return the hash of ``data``, 0 … 2^32 − 1; ``seed`` counts modulo 2^32."""
    rest = len(data) - len(data) % 16
    total = _stripes(data[:rest], seed) if rest else seed + _P5
    total = total + len(data) & _MASK
    for at in range(rest, len(data) - 3, 4):
        total = _rotated(total + _word(data, at) * _P3, 17) * _P4 & _MASK
    for byte in data[len(data) - len(data) % 4 :]:
        total = _rotated(total + byte * _P5, 11) * _P1 & _MASK
    total = (total ^ total >> 15) * _P2 & _MASK
    total = (total ^ total >> 13) * _P3 & _MASK
    return total ^ total >> 16


def _stripes(data: bytes, seed: int) -> int:
    """Return what four accumulators make of whole stripes of 16 bytes."""
    lanes = [seed + _P1 + _P2, seed + _P2, seed, seed - _P1]
    for at in range(0, len(data), 4):
        lane = at // 4 % 4
        lanes[lane] = _rotated(lanes[lane] + _word(data, at) * _P2, 13) * _P1
    return sum(_rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _rotated(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> 32 - bits) & _MASK
