"""A fleet on a box whose uplinks are steered by connection marks: clients of both stay through all that moves them."""

from __future__ import annotations

import pytest

from support.fleet_box import FleetBox
from support.held import dialled, talk
from support.operated import TOLD
from support.sandbox import HOST4, sandbox
from support.uplinks import BEHIND_A, BEHIND_B, KINDS, steer


@pytest.mark.long
def test_clients_of_both_uplinks_stay_through_a_hand_off_and_a_drain() -> None:
    with sandbox(other=True) as boxes:
        assert boxes.other is not None
        box = FleetBox(boxes)
        box.write(TOLD)
        steer(boxes, KINDS["whole"])
        box.portfleet("up")
        with (
            dialled(boxes.clients, (HOST4, 7000), BEHIND_A) as a,
            dialled(boxes.other, ("203.0.113.1", 7000), BEHIND_B) as b,
        ):
            assert not talk(a + b).wrong
            box.portfleet("cutover", "echo", "--release", "v2")
            after = talk(a + b)
            assert not after.wrong and {who.rpartition("/")[2] for who in after.who} == {"v2"}
            box.portfleet("drain", "echo/echo-green-1", "--no-wait")
            assert not talk(a + b).wrong
            with (
                dialled(boxes.clients, (HOST4, 7000), BEHIND_A) as more_a,
                dialled(boxes.other, ("203.0.113.1", 7000), BEHIND_B) as more_b,
            ):
                met = talk(more_a + more_b).who
                assert len(met) == 24 and {who.partition("/")[0] for who in met} == {"echo-green-2"}
