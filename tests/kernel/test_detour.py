"""A diversion that goes straight to the kernel is the one that libnftables would make of the text."""

from __future__ import annotations

import pytest

from portfleet.core.changes import Divert
from portfleet.core.errors import Exit, PortfleetError
from portfleet.dataplane.nft.context import NftContext
from portfleet.dataplane.nft.reader import Chain, NftReader
from support.netns import network_of
from support.plane import Plane

AWAY, BACK = Divert("echo-blue-1", "echo-blue-2"), Divert("echo-blue-1", "echo-blue-3")


def chain(reader: NftReader) -> Chain:
    return reader.chains("echo-blue-1")["echo-blue-1"]


def test_it_is_the_rule_of_the_text(rules: Plane) -> None:
    rules.load()
    with network_of(rules.boxes.host):
        reader, before = NftReader("portfleet"), None
        for change in (AWAY, BACK, AWAY):
            rules.kernel.run((change,))
            straight = chain(reader)
            NftContext().do(rules.kernel.text((change,)))
            assert chain(reader) == straight != before
            before = straight


def test_it_counts_as_our_own_transaction(rules: Plane) -> None:
    rules.load()
    with network_of(rules.boxes.host):
        reader, guardian = NftReader("portfleet"), rules.kernel.guardian()
        try:
            guardian.read()
            rules.kernel.run((AWAY,))
            assert rules.kernel.read_slots("echo")
            assert guardian.read() == []
            NftContext().do("add chain inet portfleet foreign\n")
            assert [change.lost for change in guardian.read()] == [False]
            assert reader.exists()
        finally:
            guardian.close()


@pytest.mark.parametrize("change", [Divert("echo-blue-1", "echo-blue-8"), Divert("echo-blue-8", "echo-blue-1")])
def test_what_is_refused_changes_nothing(rules: Plane, change: Divert) -> None:
    rules.load()
    with network_of(rules.boxes.host):
        reader = NftReader("portfleet")
        before = chain(reader)
        with pytest.raises(PortfleetError, match="nothing was applied: No such file or directory") as refused:
            rules.kernel.run((change,))
        assert refused.value.code == Exit.KERNEL
        assert chain(reader) == before
