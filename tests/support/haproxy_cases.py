"""Fleets behind HAProxy as configs, a kind of service each, and the state of the plane that `apply` leads to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from portfleet.core.changes import SetFleet
from portfleet.dataplane.haproxy.state import State, after
from support.fake_world import World
from support.fleets import fleet

_ECHO = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--host", "{host}", "--port", "{port}"]
ports = "7100-7103"
instances = 2
slots = 256
"""
#: Does not count its connections itself.
_KV = """
[service.kv]
listen = ["192.0.2.1:6000", "[2001:db8::1]:6000"]
command = ["redis-server", "--bind", "{host}", "--port", "{port}"]
ports = "6100-6103"
instances = 2
slots = 256
max_connections = 1000
"""
#: {name: (the config, how many HAProxies, {network: number of the instance that is pinned to})}
CASES: dict[str, tuple[str, int, dict[str, str]]] = {
    "source": (_ECHO, 2, {}),
    "prefixes": (_ECHO + 'affinity = "source/24/56"\n', 2, {}),
    "connection": (_ECHO + 'affinity = "connection"\n', 2, {}),
    "random": (_ECHO + 'affinity = "random"\n', 2, {}),
    "round-robin": (_ECHO + 'affinity = "round-robin"\n', 2, {}),
    "weights": (_ECHO + "weight = { 1 = 3 }\n", 2, {}),
    "sticky": (_ECHO + 'sticky = "1h"\n', 2, {}),
    "full-goes-to-the-next": (_KV, 2, {}),
    "full-is-refused": (_KV + 'overflow = "refuse"\n', 4, {}),
    "remote": (_ECHO.replace(":7000", "0.0.0.0:7000") + 'remote = ["203.0.113.2:7101"]\n', 2, {}),
    "remote-by-ipv6": (_ECHO.replace(":7000", "[::]:7000") + 'remote = ["[2001:db8::2]:7101"]\n', 2, {}),
    "pins": (_ECHO, 2, {"198.18.0.0/16": "1", "198.18.7.0/24": "2", "2001:db8:1:7::/64": "2"}),
    "who-may-connect": (_ECHO + 'allow = ["198.18.0.0/15"]\ndeny = ["198.18.99.0/24"]\nmax_per_source = 9\n', 1, {}),
    "told-of-clients": (_ECHO + "send_proxy = true\n", 2, {}),
    "two-services": (_ECHO + _KV, 4, {}),
}


def state_of(name: str, directory: Path) -> State:
    """Return what the plane is set to once the case ``name`` has been applied."""
    config, _, pins = CASES[name]
    world = World(directory)
    world.apply(fleet(config))
    if pins:
        world.store.update(lambda now: now.with_service("echo", replace(now.services["echo"], pins=pins)))
        world.apply(fleet(config))
    state = State()
    for transaction in world.kernel.log:
        state = after(state, transaction)
    assert state.fleet is not None
    return replace(state, fleet=SetFleet("0123456789abcdef", state.fleet.ports))  # a hash of the directory otherwise
