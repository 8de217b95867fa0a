"""[forward]: the boxes that share the service's addresses."""

from __future__ import annotations

from portfleet.config.boxes import Boxes, BoxNames, Hosts, Interfaces
from portfleet.config.kinds import Number
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.policies import Forward

_LOADED = "It holds when `portfleet forward load` has run on every box (`systemctl reload portfleet-forward`)"

FORWARD = Table(
    "forward",
    Forward,
    "several boxes behind equal-cost routes: see docs/ecmp.md",
    (
        Setting(
            "addresses",
            Hosts(),
            "the service's addresses, which routers send to any of the boxes",
            Effect.AT_ONCE,
            '["203.0.113.100"]',
            more="Services that listen on them, or on every address, are sent on by their affinity.",
            unset="nothing is sent on",
        ),
        Setting(
            "boxes",
            Boxes(),
            "the boxes that slots point at, each with its own addresses; the same on all boxes",
            Effect.AT_ONCE,
            '{ box1 = ["192.0.2.11"], box2 = ["192.0.2.12"], box3 = ["192.0.2.13"], box4 = ["192.0.2.14"] }',
            more="Each has an IPv4 address if `addresses` has one, and so of IPv6. They are on one segment. A box that "
            "is none of them is a balancer alone. Add a new one at the end and in `out`: nothing moves by that. One "
            "that is gone for good stays, in `out`; only the last may be removed.",
            unset="nothing is sent on",
        ),
        Setting(
            "draining",
            BoxNames(),
            "boxes that get no new connections; those they have go on, and before they return",
            Effect.AT_ONCE,
            '["box2"]',
            more=f"{_LOADED}. One box at a time.",
            unset="none",
        ),
        Setting(
            "out",
            BoxNames(),
            "boxes that get nothing, as they are away: their slots are the others'",
            Effect.AT_ONCE,
            '["box3"]',
            more=f"{_LOADED}. Connections that such a box still has are lost, so let it drain before.",
            unset="none",
        ),
        Setting(
            "returning",
            BoxNames(),
            "boxes that get new connections again; those that began elsewhere meanwhile go on there",
            Effect.AT_ONCE,
            '["box4"]',
            more=f"{_LOADED}. Such a box passes on what it does not know, so a flush of its own connection table would "
            "lose connections: end it when the others have none of its clients' any more.",
            unset="none",
        ),
        Setting(
            "slots",
            Number(256, 65536),
            "hash slots of the boxes; more for more than 50 boxes",
            Effect.AT_ONCE,
            "65536",
            change="nearly all established connections are lost: only while the boxes are down",
        ),
        Setting(
            "devices",
            Interfaces(),
            "the interfaces by which routers send clients' packets",
            Effect.AT_ONCE,
            '["eth0"]',
            unset="those by which the other boxes are reached",
        ),
    ),
)
