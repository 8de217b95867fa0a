"""Addresses of the box come and go; connections to others of them are handed off and go on."""

from __future__ import annotations

import pytest

from support.held import dialled, talk
from support.operated import operated
from support.sandbox import CLIENT4, HOST4, client4


@pytest.mark.long
def test_after_a_hand_off_the_first_address_may_go_too() -> None:
    with operated() as box:
        host, clients = box.boxes.host, box.boxes.clients
        host.sysctl("net.ipv4.conf.all.promote_secondaries", "1")
        host.net("ip", "addr", "add", "192.0.2.10/24", "dev", "to-clients")
        with dialled(clients, ("192.0.2.10", 7000), [client4(number) for number in range(40)]) as held:
            assert not talk(held).wrong
            box.portfleet("cutover", "echo", "--release", "v2")
            host.net("ip", "addr", "del", f"{HOST4}/24", "dev", "to-clients")
            host.net("ip", "route", "replace", "198.18.0.0/15", "via", CLIENT4)
            after = talk(held)
            assert not after.wrong and {who.rpartition("/")[2] for who in after.who} == {"v2"}
