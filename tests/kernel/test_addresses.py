"""A connection depends on the address that its client dialled, and on no other of this box."""

from __future__ import annotations

import pytest

from support.held import dialled, talk
from support.plane import ECHO, Plane
from support.sandbox import CLIENT4, CLIENT6, HOST4, HOST6, Box, client4, client6, wait_for

DEVICE = "to-clients"
SECOND4, SECOND6 = "192.0.2.10", "2001:db8::10"
PORT = 7000


def served(rules: Plane) -> None:
    rules.load(ECHO)
    rules.serve()


def link_local(box: Box, device: str) -> str:
    """Return the link-local address of a device, which it gets some time after it is up."""

    def there() -> str:
        words = box.run("ip", "-6", "-o", "addr", "show", "dev", device, "scope", "link", "-tentative").stdout.split()
        return words[3].split("/")[0] if words else ""

    return wait_for(f"{device} has a link-local address", there)


def test_the_first_address_goes_and_connections_to_the_second_stay(rules: Plane) -> None:
    host, clients = rules.boxes.host, rules.boxes.clients
    host.sysctl("net.ipv4.conf.all.promote_secondaries", "1")
    for address in (f"{SECOND4}/24", f"{SECOND6}/64"):
        host.net("ip", "addr", "add", address, "dev", DEVICE)
    served(rules)
    with (
        dialled(clients, (SECOND4, PORT), [client4(number) for number in range(20)]) as four,
        dialled(clients, (SECOND6, PORT), [client6(number) for number in range(20)]) as six,
        dialled(host, (SECOND4, PORT), [SECOND4]) as own,
    ):
        held = four + six + own
        assert not talk(held).wrong
        for address in (f"{HOST4}/24", f"{HOST6}/64"):
            host.net("ip", "addr", "del", address, "dev", DEVICE)
        for address, gateway in (("198.18.0.0/15", CLIENT4), ("2001:db8:1::/48", CLIENT6)):
            host.net("ip", "route", "replace", address, "via", gateway)  # went with the address
        after = talk(held)
        assert not after.wrong and len(after.who) == 41


def test_a_temporary_address_expires_and_connections_to_the_permanent_one_stay(rules: Plane) -> None:
    host, clients = rules.boxes.host, rules.boxes.clients
    # The one that was added last is the first that the kernel finds.
    host.net("ip", "addr", "add", SECOND6 + "/64", "dev", DEVICE, "valid_lft", "3", "preferred_lft", "2")
    served(rules)
    with dialled(clients, (HOST6, PORT), [client6(number) for number in range(20)]) as held:
        assert not talk(held).wrong
        shown = ("ip", "-6", "addr", "show", "dev", DEVICE)
        wait_for("the temporary address has expired", lambda: SECOND6 not in host.run(*shown).stdout)
        assert not talk(held).wrong


def test_the_interface_needs_no_address(rules: Plane) -> None:
    """The dialled address is on lo and routed to the box by its link-local address (RFC 5549)."""
    host, clients = rules.boxes.host, rules.boxes.clients
    link = link_local(host, DEVICE)
    link_local(clients, "to-host")
    host.net("ip", "addr", "add", "203.0.113.80/32", "dev", "lo")
    host.net("ip", "addr", "del", f"{HOST4}/24", "dev", DEVICE)
    host.net("ip", "route", "add", f"{CLIENT4}/32", "dev", DEVICE)
    clients.net("ip", "route", "add", "203.0.113.80/32", "via", "inet6", link, "dev", "to-host")
    host.net("ip", "route", "replace", "198.18.0.0/15", "dev", DEVICE, "src", "203.0.113.80")
    clients.sysctl("net.ipv4.conf.all.proxy_arp", "1")
    served(rules)
    with dialled(clients, ("203.0.113.80", PORT), [CLIENT4]) as held:
        assert not talk(held).wrong


OWN = ["127.0.0.1", "127.0.0.5", "::1", HOST4, HOST6]


@pytest.mark.parametrize("address", [*OWN, "fe80::%to-host"])
def test_the_daemon_sees_the_address_that_was_dialled(rules: Plane, address: str) -> None:
    host, box = rules.boxes.host, rules.boxes.clients
    served(rules)
    if address.startswith("fe80"):
        link_local(box, "to-host")
        address = link_local(host, DEVICE) + "%to-host"
    elif address not in (HOST4, HOST6):
        box = host
    with dialled(box, (address, PORT)) as held:
        assert not talk(held).wrong
        shown = host.run("ss", "-Htn", "state", "established", "sport >= :7100 and sport < :7200").stdout
        ends = [
            line.split()[2].replace("[::ffff:", "[").replace("[", "").replace("]", "") for line in shown.splitlines()
        ]
        assert any(end.rpartition(":")[0].partition("%")[0] == address.partition("%")[0] for end in ends), shown
