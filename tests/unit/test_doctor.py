"""doctor's judgement: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from portfleet.core.needs import Needs, needs_of
from portfleet.dataplane.nft.doctor import conntrack, firewalls, sticky, system
from portfleet.dataplane.nft.tracking import PREFIX, ROWS, Row, advised
from portfleet.doctor import files, limits, ports
from portfleet.doctor.finding import Finding, Severity, setting
from portfleet.linux.sockdiag import Listener
from support.fleets import ECHO, fleet, machine

NEEDS = Needs(
    connections=80_000,
    stated=True,
    most=20_000,
    users=False,
    remote=False,
    keepalive=420,
    listens=dict.fromkeys(fleet().services["echo"].listen, "echo"),
    ports={"echo": (7100, 7107)},
)
SYSTEM = system.SystemFacts(
    release="6.1.0-18-amd64", nft="1.0.6", libnftables=True, rights=1 << 12, first_namespace=True
)
TCP = {row.name: advised(row, keepalive=7200) for row in ROWS}
CONNTRACK = conntrack.ConntrackFacts(limit=320_000, used=10, tcp=TCP, keepalive_time=7200)
LIMITS = limits.LimitFacts(
    hard=65_536, of_supervisor=False, minfds=None, file_max=1_000_000, somaxconn=4096, syn_backlog=4096
)
PORTS = ports.PortFacts(strangers=(), local_ports=(32768, 60999), reserved=(), forward4=False, forward6=False)
FIREWALLS = firewalls.FirewallFacts()
FILES = files.FileFacts(
    sockets=("/run/portfleet/supervisor.sock",), free={"/lib": 1 << 40, "/log": 1 << 40}, log="/log", logs=10, written=0
)


def bad(findings: Iterable[Finding]) -> dict[str, Finding]:
    """Return what is not fine, by what it is about."""
    return {finding.about: finding for finding in findings if finding.severity is not Severity.FINE}


def test_a_machine_that_lacks_nothing() -> None:
    found = [
        *system.judge(SYSTEM, NEEDS),
        *conntrack.judge(CONNTRACK, NEEDS),
        *limits.judge(LIMITS, NEEDS),
        *ports.judge(PORTS, NEEDS),
        *firewalls.judge(FIREWALLS, fleet(), NEEDS),
        *files.judge(FILES),
    ]
    assert bad(found) == {}
    assert len(found) == 13


@pytest.mark.parametrize(
    ("release", "severity"),
    [
        ("5.12.0", Severity.FINE),
        ("5.10.0-28-amd64", Severity.WARNING),
        ("5.9.16", Severity.BROKEN),
        ("4.19.0", Severity.BROKEN),
        ("10.0-rc1", Severity.FINE),
    ],
)
def test_the_floor_of_the_kernel(release: str, severity: Severity) -> None:
    (found,) = (f for f in system.judge(replace(SYSTEM, release=release), NEEDS) if f.about == "kernel")
    assert found.severity is severity


@pytest.mark.parametrize(
    ("nft", "severity"), [("1.0.2", Severity.FINE), ("1.1.3", Severity.FINE), ("0.9.8", Severity.BROKEN)]
)
def test_the_floor_of_nft(nft: str, severity: Severity) -> None:
    (found,) = (f for f in system.judge(replace(SYSTEM, nft=nft), NEEDS) if f.about == "nft")
    assert found.severity is severity


def test_a_user_namespace_is_told_of_and_nothing_is_broken() -> None:
    found = list(system.judge(replace(SYSTEM, first_namespace=False), NEEDS))
    assert bad(found) == {}
    assert found[-1].about == "user namespace" and "in parts" in found[-1].what


def test_a_missing_library_counts_more_than_a_missing_command() -> None:
    assert "nft" not in bad(system.judge(replace(SYSTEM, nft=""), NEEDS))
    found = bad(system.judge(replace(SYSTEM, libnftables=False), NEEDS))["nft"]
    assert (found.severity, found.mend) == (Severity.BROKEN, "apt-get install libnftables1")


def test_rights_that_are_missing_are_named() -> None:
    (found,) = bad(system.judge(replace(SYSTEM, rights=0), NEEDS)).values()
    assert found.what == "CAP_NET_ADMIN is missing"
    users = [f.what for f in system.judge(SYSTEM, replace(NEEDS, users=True)) if f.severity is Severity.BROKEN]
    assert users == [
        f"{name} is missing"
        for name in ("CAP_SETGID", "CAP_SETUID", "CAP_CHOWN", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE")
    ]


@pytest.mark.parametrize(
    ("limit", "severity"), [(79_999, Severity.BROKEN), (319_999, Severity.WARNING), (320_000, Severity.FINE)]
)
def test_the_connection_table_holds_four_times_the_peak(limit: int, severity: Severity) -> None:
    (found,) = (f for f in conntrack.judge(replace(CONNTRACK, limit=limit), NEEDS) if f.about == "nf_conntrack_max")
    assert found.severity is severity
    assert severity is Severity.FINE or "nf_conntrack_max = 320000" in found.mend


def test_without_max_connections_the_descriptors_bound_the_peak() -> None:
    needs = needs_of(fleet(), descriptors=20_000, keepalive=420)
    assert (needs.connections, needs.stated) == (4 * 19_936, False)
    found = bad(conntrack.judge(replace(CONNTRACK, limit=262_144), needs))["nf_conntrack_max"]
    assert found.severity is Severity.WARNING
    assert "max_connections" in found.mend


def test_the_peak_is_that_of_all_services() -> None:
    kv = '[service.kv]\nlisten = [":6379"]\ncommand = ["redis-server", "--port", "{port}"]\nports = "7200-7203"\n'
    text = ECHO + "max_connections = 5000\n" + kv + "instances = 2\nmax_connections = 1000\n"
    needs = needs_of(fleet(text), descriptors=20_000, keepalive=None)
    assert (needs.connections, needs.stated, needs.most) == (22_000, True, 5000)


@pytest.mark.parametrize(
    ("used", "severity"), [(255_999, Severity.FINE), (256_000, Severity.WARNING), (304_000, Severity.BROKEN)]
)
def test_how_full_the_connection_table_is(used: int, severity: Severity) -> None:
    (found,) = (f for f in conntrack.judge(replace(CONNTRACK, used=used), NEEDS) if f.about == "conntrack table")
    assert found.severity is severity


def tcp(**settings: int) -> conntrack.ConntrackFacts:
    return replace(CONNTRACK, tcp=TCP | settings)


def test_an_idle_connection_must_not_be_forgotten() -> None:
    name = f"{PREFIX}timeout_established"
    assert bad(conntrack.judge(tcp(timeout_established=600), NEEDS)) == {}
    assert bad(conntrack.judge(tcp(timeout_established=420), NEEDS))[name].severity == "broken"
    others = replace(NEEDS, keepalive=None)
    assert bad(conntrack.judge(tcp(timeout_established=3600), others))[name].severity == "broken"
    assert "= 86400'" in bad(conntrack.judge(tcp(timeout_established=3600), others))[name].mend
    slow = replace(tcp(), keepalive_time=100_000)
    assert "= 200000'" in bad(conntrack.judge(slow, others))[name].mend


def test_the_kernels_own_settings_end_connections_in_four_ways() -> None:
    kernel = replace(CONNTRACK, tcp={row.name: row.default for row in ROWS})
    found = bad(conntrack.judge(kernel, replace(NEEDS, keepalive=None)))
    names = {name.removeprefix(PREFIX) for name in found}
    assert names == {"timeout_close_wait", "timeout_fin_wait", "timeout_last_ack", "be_liberal"}
    assert all(finding.severity == "warning" and finding.why for finding in found.values())


@pytest.mark.parametrize("row", [row for row in ROWS if isinstance(row.over, int) and row.over], ids=lambda r: r.name)
def test_each_time_out_outlasts_what_tcp_may_be_silent_for(row: Row) -> None:
    assert isinstance(row.over, int) and row.value and row.value > row.over
    assert bad(conntrack.judge(tcp(**{row.name: row.over + 1}), NEEDS)) == {}
    (found,) = bad(conntrack.judge(tcp(**{row.name: row.over}), NEEDS)).values()
    assert (found.about, f"{row.sysctl} = {row.value}" in found.mend) == (row.sysctl, True)


def test_either_way_of_what_does_not_matter_is_fine() -> None:
    assert bad(conntrack.judge(tcp(loose=0, max_retrans=9, ignore_invalid_rst=1), NEEDS)) == {}


def test_be_liberal_and_a_module_that_is_not_loaded() -> None:
    assert "= 1'" in bad(conntrack.judge(tcp(be_liberal=0), NEEDS))[f"{PREFIX}be_liberal"].mend
    (found,) = bad(conntrack.judge(replace(CONNTRACK, limit=None), NEEDS)).values()
    assert found.mend.startswith("modprobe nf_conntrack")


def test_descriptors_against_max_connections() -> None:
    assert bad(limits.judge(replace(LIMITS, hard=20_064), NEEDS)) == {}
    assert bad(limits.judge(replace(LIMITS, hard=20_063), NEEDS))["descriptors"].severity == "broken"
    assert "supervisord will refuse" in bad(limits.judge(replace(LIMITS, minfds=65_537), NEEDS))["minfds"].why
    assert bad(limits.judge(replace(LIMITS, file_max=159_999), NEEDS))["fs.file-max"].severity == "broken"


def test_short_queues_are_warned_of() -> None:
    found = bad(limits.judge(replace(LIMITS, somaxconn=128, syn_backlog=256), NEEDS))
    assert {name: finding.severity for name, finding in found.items()} == {
        "net.core.somaxconn": "warning",
        "net.ipv4.tcp_max_syn_backlog": "warning",
    }
    assert found["net.core.somaxconn"].mend == setting("net.core.somaxconn", 4096)


def listener(port: int, address: str = "0.0.0.0") -> Listener:
    """Return a LISTEN socket; IPv4 where ``address`` has no colon."""
    return Listener(6 if ":" in address else 4, address, port, inode=1, v6only=False, queued=0, backlog=128)


def test_a_stranger_on_a_listen_port_or_an_instances_port() -> None:
    strangers = ((listener(7000, "127.0.0.1"), "nginx (pid 7)"), (listener(7101), "python3 (pid 8)"))
    found = bad(ports.judge(replace(PORTS, strangers=strangers), NEEDS))
    assert found["port 7000"].what == "nginx (pid 7) listens on 127.0.0.1:7000 too, which is where clients dial echo"
    assert (found["port 7000"].severity, found["port 7101"].severity) == ("warning", "broken")


def test_a_stranger_on_another_address_is_no_matter() -> None:
    text = ECHO.replace('":7000"', '"192.0.2.1:7000"')
    needs = needs_of(fleet(text), descriptors=20_000, keepalive=None)
    near, far = (listener(7000, "192.0.2.1"), "a"), (listener(7000, "192.0.2.9"), "b")
    assert "a listens" in bad(ports.judge(replace(PORTS, strangers=(near, far)), needs))["port 7000"].what
    assert bad(ports.judge(replace(PORTS, strangers=(far,)), needs)) == {}


def test_ports_that_outgoing_connections_take() -> None:
    clash = replace(PORTS, local_ports=(1024, 60999))
    assert "ip_local_reserved_ports = 7100-7107" in bad(ports.judge(clash, NEEDS))["ip_local_port_range"].mend
    half = bad(ports.judge(replace(clash, reserved=((7100, 7103),)), NEEDS))["ip_local_port_range"]
    assert "ip_local_reserved_ports = 7100-7103,7100-7107" in half.mend, "what is reserved already must stay so"
    assert bad(ports.judge(replace(clash, reserved=((7000, 7200),)), NEEDS)) == {}


def test_forwarding_matters_with_remote_instances_only() -> None:
    found = bad(ports.judge(PORTS, replace(NEEDS, remote=True)))
    assert found["net.ipv4.ip_forward"].severity == "broken"
    assert bad(ports.judge(replace(PORTS, forward4=True, forward6=True), replace(NEEDS, remote=True))) == {}


def test_a_ruleset_emptied_by_nftables_service() -> None:
    assert bad(firewalls.judge(replace(FIREWALLS, flushes=True), fleet(), NEEDS)) == {}, "nobody runs it"
    found = bad(firewalls.judge(replace(FIREWALLS, flushes=True, at_boot=True), fleet(), NEEDS))
    assert "reset" in found["/etc/nftables.conf"].why


def test_paths_and_room() -> None:
    long = replace(FILES, sockets=("/run/a.sock", f"/{'x' * 107}"))
    assert "108 bytes" in bad(files.judge(long))["socket path"].what
    assert bad(files.judge(replace(FILES, sockets=(f"/{'é' * 53}",)))) == {}
    assert bad(files.judge(replace(FILES, free=FILES.free | {"/lib": 1024})))["disk"].severity == "broken"
    full = replace(FILES, free=FILES.free | {"/log": 400 * 1024 * 1024 - 1})
    assert bad(files.judge(full))["log space"].severity == "warning"
    assert bad(files.judge(replace(full, written=1))) == {}, "what lies there already will not grow again"


def test_needs_follow_the_config() -> None:
    text = ECHO + 'user = "nobody"\nremote = ["203.0.113.2:7101"]\n'
    needs = needs_of(fleet(text.replace('":7000"', '"0.0.0.0:7000"'), machine()), descriptors=1024, keepalive=None)
    assert (needs.users, needs.remote, needs.ports) == (True, True, {"echo": (7100, 7107)})


@pytest.mark.parametrize(("used", "severity"), [(799, Severity.FINE), (800, Severity.WARNING)])
def test_how_full_the_sticky_maps_are(used: int, severity: Severity) -> None:
    (found,) = sticky.judge([sticky.StickyFacts("echo", 4, used, 1000)])
    assert found.severity is severity
    assert severity is Severity.FINE or "sticky_size = 2000" in found.mend
