"""The hash, against values that others computed: its author, and the kernel itself."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.dataplane.nft.jhash import jhash, slot_of

# https://burtleburtle.net/bob/c/lookup3.c, driver5: hashlittle(text, length, seed).
AUTHOR = [
    (b"", 0, 0xDEADBEEF),
    (b"", 0xDEADBEEF, 0xBD5B7DDE),
    (b"Four score and seven years ago", 0, 0x17770551),
    (b"Four score and seven years ago", 1, 0xCD628161),
]

#: seed -> {address: slot of 4,096}, as `meta mark set jhash ip saddr mod 4096 seed …` set it on Linux 6.18 (nft 1.0.6).
KERNEL = {
    0x5EED: {
        "198.18.72.149": 1901,
        "198.19.181.216": 1694,
        "198.19.58.1": 3538,
        "198.18.208.184": 2475,
        "198.18.100.100": 570,
        "198.19.43.62": 640,
        "198.19.187.54": 2183,
        "198.19.163.213": 665,
        "2001:db8:1:6b82::1": 168,
        "2001:db8:1:a402::2": 2712,
        "2001:db8:1:7b17::3": 193,
        "2001:db8:1:4f75::2": 2353,
        "2001:db8:1:9d6f::2": 270,
        "2001:db8:1:c8b0::5": 2469,
        "2001:db8:1:c351::7": 2278,
        "2001:db8:1:ceca::1": 1736,
    },
    0x0: {
        "198.19.176.89": 2102,
        "198.18.197.63": 1663,
        "198.19.132.19": 830,
        "198.19.199.207": 3288,
        "198.18.215.86": 2400,
        "198.18.20.187": 1388,
        "198.18.132.145": 3767,
        "198.19.238.82": 3748,
        "2001:db8:1:82e2::9": 1799,
        "2001:db8:1:7c65::4": 1444,
        "2001:db8:1:67a9::6": 3916,
        "2001:db8:1:eb11::4": 3532,
        "2001:db8:1:c8a7::5": 2595,
        "2001:db8:1:d471::8": 2102,
        "2001:db8:1:4da5::6": 494,
        "2001:db8:1:f7c1::3": 1100,
    },
    0x7FFFFFFF: {
        "198.18.162.178": 3969,
        "198.19.223.163": 1759,
        "198.19.162.125": 2668,
        "198.18.61.161": 72,
        "198.18.100.136": 3257,
        "198.18.148.172": 1905,
        "198.19.196.141": 441,
        "198.19.111.164": 3540,
        "2001:db8:1:550f::5": 2084,
        "2001:db8:1:1ea::5": 3068,
        "2001:db8:1:ca03::2": 4036,
        "2001:db8:1:89d0::1": 648,
        "2001:db8:1:317f::9": 1626,
        "2001:db8:1:275c::6": 2967,
        "2001:db8:1:37d3::9": 0,
        "2001:db8:1:8482::2": 3570,
    },
}


@pytest.mark.parametrize(("key", "seed", "value"), AUTHOR)
def test_it_is_lookup3(key: bytes, seed: int, value: int) -> None:
    assert jhash(key, seed) == value


@pytest.mark.parametrize("seed", KERNEL)
def test_it_is_the_kernels(seed: int) -> None:
    assert {
        address: slot_of(ipaddress.ip_address(address).packed, seed=seed, slots=4096) for address in KERNEL[seed]
    } == KERNEL[seed]


@given(st.binary(max_size=40), st.integers(0, 0x7FFFFFFF), st.integers(256, 65536))
def test_a_slot_is_within_its_table(key: bytes, seed: int, slots: int) -> None:
    assert 0 <= slot_of(key, seed=seed, slots=slots) < slots


def test_addresses_in_a_row_spread_evenly() -> None:
    found = [0] * 16
    for number in range(16_000):
        found[slot_of((0xC6120000 + number).to_bytes(4, "big"), seed=0x5EED, slots=16)] += 1
    # A thousand expected in each: a fair hash stays within five standard deviations (√(1000 · 15/16) ≈ 31).
    assert max(found) - 1000 < 153 and 1000 - min(found) < 153
