"""A large table is read also while other rules of the network namespace change all the time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from portfleet.dataplane.nft.reader import NftReader
from portfleet.linux.netlink import Netfilter, attribute
from support.netns import beside
from support.plane import Plane
from support.sandbox import wait_for

SERVICES = "".join(
    f"""
[service.s{number}]
listen = [":{2000 + number}"]
command = ["portfleet-daemon", "--port", "{{port}}"]
ports = "{10000 + 32 * number}-{10000 + 32 * number + 31}"
instances = 16
slots = 256
"""
    for number in range(24)
)
_NEW_TABLE, _DELETE_TABLE, _CREATE = 10 << 8, 10 << 8 | 2, 0x400
#: Seconds between two changes: a tenth of what the whole table takes to be read.
_PAUSE = 0.002


def change(up: Any) -> None:
    """Make another table and remove it, for ever."""
    name = attribute(1, b"another\0")
    with Netfilter() as netfilter:
        while True:
            netfilter.transact(10, [(1, _NEW_TABLE, _CREATE, name)])
            netfilter.transact(10, [(1, _DELETE_TABLE, 0, name)])
            up.set()
            time.sleep(_PAUSE)  # how fast they change, which nothing waits for


def test_rules_that_change_all_the_time_are_read_chain_by_chain(rules: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    rules.load(SERVICES)
    before, names = rules.kernel.observe(), list[tuple[str, ...]]()
    read = NftReader._chains

    def noted(reader: NftReader, wanted: tuple[str, ...]) -> Any:
        names.append(wanted)
        return read(reader, wanted)

    monkeypatch.setattr(NftReader, "_chains", noted)
    with beside(rules.boxes.host, change):

        def one_by_one() -> bool:
            names.clear()
            assert rules.kernel.observe() == before
            return len(names) > len(before.instances)

        wait_for("the whole table is not read at once", one_by_one)
    assert rules.is_as_wanted()
