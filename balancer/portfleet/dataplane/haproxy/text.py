"""HAProxy's configuration and maps as they follow from the plane's state. Pure.

Static rules stand in the configuration, moving parts in maps: a client's slot → instance → server. A service has a file
of its own, so that an ejection among 1,000 services writes one. Servers are listed by where they are; `use-server`
chooses by the map, and weights (1: slots point there) say where a connection that a server refuses is dispatched to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.changes import InstanceRule, ServiceRule
from portfleet.dataplane.haproxy.affinity import slot_lines, source_expression
from portfleet.dataplane.haproxy.state import State, Unit

#: Later than any Unix time, for a denial without an end; HAProxy's integers have 64 bits.
_NEVER = 1 << 62
_SERVER = "    server "


@dataclass(frozen=True)
class Place:
    """Where the plane's files are, and how many ``processes`` share its clients."""

    folder: Path
    processes: int

    @property
    def services(self) -> Path:
        """The directory of the services' files."""
        return self.folder / "services"

    def map(self, service: str, kind: str) -> Path:
        """The file of a map, whose path is the map's name in HAProxy too."""
        return self.services / f"{service}.{kind}"

    def config(self, number: int) -> Path:
        return self.folder / f"haproxy-{number}.cfg"

    def socket(self, number: int) -> Path:
        """The socket that a process takes commands on."""
        return self.folder / f"haproxy-{number}.sock"

    def master(self, number: int) -> Path:
        """The socket of a process's master, which reloads."""
        return self.folder / f"master-{number}.sock"

    def peer(self, number: int) -> Path:
        """The socket by which processes tell each other of sticky clients."""
        return self.folder / f"peer-{number}.sock"

    @property
    def numbers(self) -> range:
        return range(1, self.processes + 1)


def process_text(state: State, place: Place, number: int) -> str:
    """Return the configuration that process ``number`` has for itself; the services' files go with it."""
    fleet = state.fleet
    ports = ",".join(f"{low}-{high}" for low, high in sorted(fleet.ports)) if fleet else ""
    lines = [
        "# Written by portfleet; changes here are overwritten.",
        f"# ports {ports}",
        "global",
        f"    description portfleet home={fleet.home if fleet else ''} rules={digest(state, place)} process={number}",
        "    nbthread 1",
        f"    stats socket unix@{place.socket(number)} mode 600 level admin",
        "    stats timeout 1h",
        f"    setenv PORTFLEET_SOURCE {source(number)}",
        *(f"    set-var {_turn(n)} int(0)" for n, rule, _ in state.services() if rule.affinity.kind == "round-robin"),
        f"    localpeer haproxy-{number}",
        "",
        "defaults",
        "    mode tcp",
        "    timeout connect 500ms",  # a server whose backlog is full is given up after this
        "    timeout client 24d",
        "    timeout server 24d",
        "    retries 5",
        "    option redispatch 1",
        "    option clitcpka",
        "    option srvtcpka",
    ]
    if any(rule.sticky for _, rule, _ in state.services()):
        lines += ["", "peers portfleet", *(f"    peer haproxy-{n} unix@{place.peer(n)}" for n in place.numbers)]
    return "\n".join(lines) + "\n"


def service_text(name: str, unit: Unit, place: Place) -> str:
    """Return the configuration of a service that has rules."""
    rule = unit.rule
    if rule is None:
        return ""
    lines = [f"# service {name} seed={rule.seed} slots={rule.slots}"]
    if unit.listens:
        lines.append(f"frontend {name}")
        lines += [f"    bind {_bind(key)}" for key in sorted(unit.listens, key=str)]
        lines += [f"    tcp-request {line}" for line in _rules(rule, place)]
        lines += [f"    default_backend {name}", ""]
    lines += [
        f"backend {name}",
        "    balance roundrobin",
        "    use-server %[var(sess.server)] if TRUE",
        *server_lines(unit),
        *_tables(rule),
    ]
    return "\n".join(lines) + "\n"


def server_lines(unit: Unit) -> Iterator[str]:
    """Return the lines of a service's servers."""
    found = weights(unit)
    for server, options in servers(unit, source='"$PORTFLEET_SOURCE"').items():
        yield f"{_SERVER}{server} {options} weight {found[server]}"


def servers(unit: Unit, *, source: str) -> dict[str, str]:
    """Return {server: its address and options} of a service; ``source`` is what the process connects from."""
    proxy = " send-proxy-v2" if unit.rule and unit.rule.proxy else ""
    return {server_of(rule): f"{_address(rule, source)}{proxy}" for rule in unit.instances.values()}


def source(number: int) -> str:
    """Return the address that process ``number`` connects from: 28,232 ports by default to each instance."""
    return f"127.0.0.{number}"


def server_of(rule: InstanceRule) -> str:
    """Return the name of the server that stands for where an instance is."""
    return f"r{rule.remote.address}-{rule.remote.port}" if rule.remote else f"p{rule.port}"


def weights(unit: Unit) -> dict[str, int]:
    """Return {server: 1 if slots lead to it, otherwise 0}."""
    leads = {server_of(unit.instances[unit.leads_to(name)]) for name in unit.taking}
    return {server_of(rule): int(server_of(rule) in leads) for rule in unit.instances.values()}


def structure(name: str, unit: Unit, place: Place) -> str:
    """Return what of a service's configuration only a reload can change: all but its servers."""
    return "".join(line for line in service_text(name, unit, place).splitlines(True) if not line.startswith(_SERVER))


def digest(state: State, place: Place) -> str:
    """Return what tells a configuration from another one to which only a reload leads."""
    text = "".join(structure(name, unit, place) for name, _, unit in state.services())
    return hashlib.sha256(f"{state.fleet}\n{place}\n{text}".encode()).hexdigest()[:16]


def maps(unit: Unit, place: Place) -> dict[str, dict[str, str]]:
    """Return every map of a service, in the order in which they are to change: where slots lead before slots."""
    taking, rule = unit.taking, unit.rule
    found = {
        "instances": {name: server_of(unit.instances[unit.leads_to(name)]) for name in unit.instances},
        "marks": {name: str(one.number) for name, one in unit.instances.items()},
    }
    if rule is not None and rule.limited:
        shares = {name: max(1, one.limit // place.processes) for name, one in unit.instances.items() if one.limit}
        found["limits"] = {name: str(share) for name, share in shares.items()}
        found["overflow"] = {str(place): name for place, name in enumerate(unit.overflow)}
    if rule is not None and rule.filters:
        found["deny"] = {net: str(one.until or _NEVER) for one in unit.access.deny for net in one.networks()}
        found["allow"] = {net: "yes" for one in unit.access.allow for net in one.networks()}
    found["slots"] = {str(slot): name for slot, name in enumerate(unit.table) if name}
    if rule is not None and rule.pins:
        found["pins"] = {network: name for network, name in unit.pins.items() if name in taking}
    if rule is not None and rule.sticky:
        found["sticky"] = {str(unit.instances[name].number): name for name in sorted(taking)}
    return found


def map_text(entries: Mapping[str, str]) -> str:
    """Return a map as its file holds it."""
    return "".join(f"{key} {value}\n" for key, value in entries.items())


def _bind(key: tuple[int, str | None, int]) -> str:
    family, address, port = key
    if family == 4:
        return f"{address or '0.0.0.0'}:{port}"
    return f"[{address or '::'}]:{port} v6only"


def _address(rule: InstanceRule, source: str) -> str:
    if rule.remote is None:
        return f"127.0.0.1:{rule.port} source {source}"
    return f"[{rule.remote.address}]:{rule.remote.port}" if 6 in rule.remote.families else str(rule.remote)


def _turn(service: str) -> str:
    return f"proc.turn_{service.replace('-', '_')}"


def _rules(rule: ServiceRule, place: Place) -> Iterator[str]:
    """Return the rules of a service's frontend, without ``tcp-request``: whom it refuses, and who serves the rest."""
    yield from (f"connection {line}" for line in _refusals(rule, place))
    chosen = "unless { var(sess.inst) -m found }"
    source = source_expression(rule.affinity)
    if rule.pins:
        yield f"connection set-var(sess.inst) src,map_ip({place.map(rule.name, 'pins')})"
    if rule.sticky:
        table = f"{rule.name}:sticky"
        yield f"connection track-sc0 {source} table {table}"
        remembered = f"sc0_get_gpt0({table}),map({place.map(rule.name, 'sticky')})"
        yield f"connection set-var(sess.inst) {remembered} {chosen}"
    yield from (f"connection {line}" for line in slot_lines(
        rule.affinity, turn=_turn(rule.name), seed=rule.seed, slots=rule.slots))  # fmt: skip
    yield f"connection set-var(sess.inst) var(sess.slot),map({place.map(rule.name, 'slots')}) {chosen}"
    if rule.limited:
        yield from (f"connection {line}" for line in _limits(rule, place))
    yield f"connection set-var(sess.server) var(sess.inst),map({place.map(rule.name, 'instances')})"
    # By a rule of sessions: what connection rules refuse is counted for those that are not let in.
    yield "session reject unless { var(sess.server) -m found }"
    if rule.sticky:
        yield f"session sc-set-gpt0(0) var(sess.inst),map_str_int({place.map(rule.name, 'marks')})"


def _refusals(rule: ServiceRule, place: Place) -> Iterator[str]:
    if rule.filters:
        yield "set-var(sess.now) date"
        yield f"set-var(sess.left) src,map_ip_int({place.map(rule.name, 'deny')}),sub(sess.now)"
        yield "reject if { var(sess.left) -m int gt 0 }"
    if rule.allows:
        yield f"reject unless {{ src,map_ip({place.map(rule.name, 'allow')}) -m found }}"
    if rule.per_source:
        yield f"track-sc2 {source_expression(rule.affinity)} table {rule.name}:sources"
        yield f"reject if {{ sc2_conn_cur({rule.name}:sources) gt {rule.per_source} }}"


def _limits(rule: ServiceRule, place: Place) -> Iterator[str]:
    """Return the rules that send what is too much for an instance to the next ones, and refuse what is left."""
    full = "{ var(sess.limit) -m int gt 0 } { var(sess.limit),sub(sess.has) -m int le 0 }"
    count = (
        f"set-var(sess.limit) var(sess.inst),map_str_int({place.map(rule.name, 'limits')},0)",
        f"set-var(sess.has) var(sess.inst),table_conn_cur({rule.name}:conns)",
    )
    yield from count
    for turn in range(rule.tries):
        yield f"set-var(sess.inst) int({turn}),map({place.map(rule.name, 'overflow')}) if {full}"
        yield from count
    yield f"reject if {full}"
    yield f"track-sc1 var(sess.inst) table {rule.name}:conns"


def _tables(rule: ServiceRule) -> Iterator[str]:
    if rule.sticky:
        kept = f"size {rule.sticky.size} expire {rule.sticky.seconds}s peers portfleet store gpt0"
        yield from ("", f"backend {rule.name}:sticky", f"    stick-table type ipv6 {kept}")
    if rule.limited:
        yield from ("", f"backend {rule.name}:conns", "    stick-table type string len 64 size 10k store conn_cur")
    if rule.per_source:
        yield from ("", f"backend {rule.name}:sources", "    stick-table type ipv6 size 1m store conn_cur")
