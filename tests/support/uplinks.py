"""A box with two uplinks, steered by connection marks: replies leave by the uplink that their connection came by.

Uplink A is the clients' box, B the other one. By the main table all answers would go to A.
"""

from __future__ import annotations

from dataclasses import dataclass

from support.sandbox import CLIENT4, OTHER4, Sandbox

_RULES = """
table inet uplinks {{
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept
    iifname "to-clients" ct state new ct mark set {set_a}
    iifname "to-other" ct state new ct mark set {set_b}
  }}
  chain output {{
    type route hook output priority mangle; policy accept
    meta mark set ct mark
  }}
}}
"""
#: Clients behind either uplink.
BEHIND_A = [f"198.18.7.{last}" for last in range(1, 13)]
BEHIND_B = [f"198.19.7.{last}" for last in range(1, 13)]


@dataclass(frozen=True)
class Marks:
    """How uplinks are told apart: what nft sets for either, and what `ip rule` looks for."""

    set_a: str
    set_b: str
    rule_a: str
    rule_b: str


def _bits(keep: str, one: str, two: str) -> tuple[str, str]:
    return f"ct mark & {keep} | {one}", f"ct mark & {keep} | {two}"


#: Whole marks, as in most handbooks; the bits of mwan3; those of pbr; and the highest.
KINDS = {
    "whole": Marks("1", "2", "1", "2"),
    "mwan3": Marks(*_bits("0xffffc0ff", "0x100", "0x200"), "0x100/0x3f00", "0x200/0x3f00"),
    "pbr": Marks(*_bits("0xff00ffff", "0x10000", "0x20000"), "0x10000/0xff0000", "0x20000/0xff0000"),
    "highest": Marks("0xa1000000", "0xa2000000", "0xa1000000", "0xa2000000"),
}


def steer(boxes: Sandbox, marks: Marks) -> None:
    """Set up the second uplink of the host and steer by ``marks``."""
    assert boxes.other is not None
    boxes.other.net("ip", "route", "add", "local", "198.19.0.0/16", "dev", "lo")
    for device in ("all", "to-clients", "to-other"):
        boxes.host.sysctl(f"net.ipv4.conf.{device}.rp_filter", "0")
    for table, gateway, mark in (("101", CLIENT4, marks.rule_a), ("102", OTHER4, marks.rule_b)):
        boxes.host.net("ip", "route", "add", "default", "via", gateway, "table", table)
        boxes.host.net("ip", "rule", "add", "fwmark", mark, "table", table)
    boxes.host.run("nft", "-f", "-", text=_RULES.format(set_a=marks.set_a, set_b=marks.set_b))
