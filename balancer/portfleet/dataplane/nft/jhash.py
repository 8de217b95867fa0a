"""Bob Jenkins' lookup3 hash as in the kernel's include/linux/jhash.h, and nft's scaling of it to a number of slots.

The kernel reads words in its own byte order; all machines portfleet is built for are little-endian.
Source: https://burtleburtle.net/bob/c/lookup3.c; net/netfilter/nft_hash.c (``reciprocal_scale(jhash(…), modulus)``).
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_INITVAL = 0xDEADBEEF


def _rol(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (32 - bits))) & _MASK


def jhash(key: bytes, seed: int) -> int:
    """Return the 32-bit hash of ``key`` with ``seed``, equal to the kernel's ``jhash(key, len(key), seed)``."""
    a = b = c = (_INITVAL + len(key) + seed) & _MASK
    while len(key) > 12:
        a = (a + int.from_bytes(key[0:4], "little")) & _MASK
        b = (b + int.from_bytes(key[4:8], "little")) & _MASK
        c = (c + int.from_bytes(key[8:12], "little")) & _MASK
        a = (a - c) & _MASK ^ _rol(c, 4)
        c = (c + b) & _MASK
        b = (b - a) & _MASK ^ _rol(a, 6)
        a = (a + c) & _MASK
        c = (c - b) & _MASK ^ _rol(b, 8)
        b = (b + a) & _MASK
        a = (a - c) & _MASK ^ _rol(c, 16)
        c = (c + b) & _MASK
        b = (b - a) & _MASK ^ _rol(a, 19)
        a = (a + c) & _MASK
        c = (c - b) & _MASK ^ _rol(b, 4)
        b = (b + a) & _MASK
        key = key[12:]
    if not key:
        return c
    tail = key.ljust(12, b"\0")
    a = (a + int.from_bytes(tail[0:4], "little")) & _MASK
    b = (b + int.from_bytes(tail[4:8], "little")) & _MASK
    c = (c + int.from_bytes(tail[8:12], "little")) & _MASK
    c = ((c ^ b) - _rol(b, 14)) & _MASK
    a = ((a ^ c) - _rol(c, 11)) & _MASK
    b = ((b ^ a) - _rol(a, 25)) & _MASK
    c = ((c ^ b) - _rol(b, 16)) & _MASK
    a = ((a ^ c) - _rol(c, 4)) & _MASK
    b = ((b ^ a) - _rol(a, 14)) & _MASK
    return ((c ^ b) - _rol(b, 24)) & _MASK


def slot_of(key: bytes, *, seed: int, slots: int) -> int:
    """Return the slot (0 … slots − 1) that nft's ``jhash … mod slots seed seed`` gives ``key``."""
    return jhash(key, seed) * slots >> 32
