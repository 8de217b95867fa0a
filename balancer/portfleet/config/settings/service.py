"""[service.NAME]: what clients dial, what runs for them, and how they are spread over it."""

from __future__ import annotations

from typing import get_args

from portfleet.config.containers import Addresses, Environment, Networks, Sources, Weights, Words
from portfleet.config.kinds import Choice, Duration, Number, Parsed, Switch, Text
from portfleet.config.reader import parse_affinity, parse_ports
from portfleet.config.settings.process import PROCESS
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.model import ControlUse, Overflow, Service, WhenEmpty
from portfleet.core.placeholders import PLACEHOLDERS

_FILLED = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
_LISTEN = Addresses(hint='write ":7000", "0.0.0.0:7000", "[::]:7000", "192.0.2.1:7000" or "[2001:db8::1]:7000"')
_AFFINITY = Parsed(
    parse_affinity,
    pattern=r"source(/[0-9]{1,3}(/[0-9]{1,3})?)?|connection|round-robin|random",
    says='"source", "source/P4", "source/P4/P6", "connection", "round-robin" or "random"; P4 1 … 32, P6 1 … 128',
    hint='write "source", "source/24", "source/24/56", "connection", "round-robin" or "random"',
)
_PORTS = Parsed(
    parse_ports,
    pattern="[0-9]{1,5}-[0-9]{1,5}",
    says='"LOW-HIGH" within 1-65535',
    hint='for example ports = "7100-7199"',
)
SERVICE = Table(
    "service.NAME",
    Service,
    "a service, by its name: [a-z][a-z0-9-]{0,30}",
    (
        Setting(
            "listen",
            _LISTEN,
            'what clients dial. ":PORT" every local address, IPv4 and IPv6; "0.0.0.0:P" IPv4 only; "[::]:P" IPv6 only; '
            '"192.0.2.1:P"; "[2001:db8::1]:P"',
            Effect.AT_ONCE,
            '[":7000"]',
            more='Two services cannot share an address and port. On a kernel without IPv6 ":PORT" is IPv4 alone. An '
            "address that is not on this box is left alone until it comes.",
            change="established connections stay, by whichever address they came",
            shown='[":7000"]',
            asks="what do clients dial?",
        ),
        Setting(
            "command",
            Words(),
            f"what an instance runs. {_FILLED} are filled in; found by PATH, portfleet's own venv first. The daemon "
            "must listen on all addresses: connections keep the one that was dialled",
            Effect.RESTART,
            '["redis-server", "--port", "{port}"]',
            more="{port} must stand in it or in `environment`. There is no shell: each string is one word.",
            change="a colour that `portfleet cutover --command` gave a command of its own keeps that one",
            shown='["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:whoami"]',
            asks="",
        ),
        Setting(
            "release",
            Text(),
            "the first release: a path, or a name below `releases`",
            Effect.CUTOVER,
            '"v1"',
            more="It fills in {release}. Which release is live, later ones too, is in the journal.",
            change="`portfleet cutover SERVICE` without --release goes to it",
            unset="none; {release} cannot be used",
            shown='"v1"',
        ),
        Setting(
            "releases",
            Text(),
            "where relative names of releases lie",
            Effect.RESTART,
            '"/srv/echo"',
            change="nothing if the release is an absolute path",
            unset="a relative name is used as it is",
        ),
        Setting(
            "directory",
            Text(),
            "where instances run; may hold {release}",
            Effect.RESTART,
            '"/srv/echo"',
            unset="the directory in which supervisord runs, which is /",
        ),
        Setting(
            "user",
            Text(),
            "who instances run as (needs root)",
            Effect.RESTART,
            '"portfleet"',
            unset="the user who runs supervisord",
        ),
        Setting(
            "control",
            Choice(get_args(ControlUse)),
            '"auto": instances that answer on their control sockets are asked there how they are and whether they can '
            'hand off connections; "off": none is ever asked',
            Effect.AT_ONCE,
            '"off"',
        ),
        Setting(
            "environment",
            Environment(),
            "environment variables of instances",
            Effect.RESTART,
            '{ PYTHONPATH = "{release}" }',
            more=f"{_FILLED} are filled in. supervisord cannot hold a value with both kinds of quotes, with a quote "
            "at its start or end, or with a blank before ; or #.",
            unset="nothing is added",
        ),
        Setting(
            "instances",
            Number(1, 1024),
            "instances per colour; left out: the number of CPUs",
            Effect.AT_ONCE,
            "4",
            change="new instances are started and get the slots of their share when they are ready; instances beyond "
            "the number get no new connections and are stopped by the `portfleet apply` that finds them without "
            "any, while `portfleet scale` hands their connections over",
            unset="the number of CPUs",
            shown="4",
        ),
        Setting(
            "ports",
            _PORTS,
            "the instances' ports: blue takes the lower half, green the upper",
            Effect.RESTART,
            '"7100-7199"',
            more="Twice `instances` ports at least. They must not overlap those of other services, any `listen` "
            "port, or net.ipv4.ip_local_port_range unless reserved in net.ipv4.ip_local_reserved_ports.",
            shown='"7100-7199"',
            asks="the ports of the instances of both colours",
        ),
        Setting(
            "slots",
            Number(256, 65536),
            "hash slots; fewer for very many services",
            Effect.AT_ONCE,
            "1024",
            more="At least as many as `instances`.",
            change="nearly all clients meet another instance with their next connection",
        ),
        Setting(
            "affinity",
            _AFFINITY,
            'which clients meet one instance: "source" (an IPv4 address, an IPv6 /64), "source/24", "source/24/56", '
            '"connection", "round-robin", "random"',
            Effect.AT_ONCE,
            '"source/24"',
            change="nearly all clients meet another instance with their next connection",
        ),
        Setting(
            "sticky",
            Duration(off=True),
            'how long a client stays with its instance, also after slots moved; "off" or a duration',
            Effect.AT_ONCE,
            '"1h"',
            more="The duration counts from a client's last connect.",
        ),
        Setting(
            "sticky_size",
            Number(1024, 16_777_216),
            "clients remembered: 2 × those expected",
            Effect.AT_ONCE,
            "1_000_000",
            more="Clients beyond it go by their slots.",
            change="all clients go by their slots once, since the kernel's map is made anew",
        ),
        Setting(
            "weight",
            Weights(0, 1000),
            "weight by instance number; 0: no new connections; left out: 1",
            Effect.AT_ONCE,
            "{ 1 = 2, 4 = 0 }",
            more="The same number of both colours has the same weight; `remote-1` is the first of `remote`.",
            change="only the slots of the share that changes move",
            unset="1 each",
        ),
        Setting(
            "max_connections",
            Number(0, 16_777_216),
            "connections an instance takes; 0: the hard limit of descriptors - 64",
            Effect.RESTART,
            "20_000",
            more="A daemon that says on its control socket that it keeps to it counts for itself; of others the "
            "kernel counts.",
            change="a number above the descriptors that supervisord was started with takes `portfleet down` and "
            "`portfleet up`",
        ),
        Setting(
            "max_per_source",
            Number(0, 1_000_000),
            "connections a source may have at a time, half-open ones too; 0: any number",
            Effect.AT_ONCE,
            "20",
            more="A source is what `affinity` takes for one (an IPv4 address, an IPv6 /64). What is over it is "
            "refused: set it above what an office behind one address needs.",
            change="connections from before count from when they are next counted, so that a source may have more "
            "for a while",
        ),
        Setting(
            "allow",
            Networks(),
            "who may connect; left out: every source",
            Effect.AT_ONCE,
            '["198.18.0.0/15", "2001:db8::/32"]',
            more="Every other source is refused, clients on this box too if their address is not listed. "
            "`deny` comes before it.",
            unset="every source",
        ),
        Setting(
            "deny",
            Networks(),
            "who may not connect, beside those of `portfleet deny`",
            Effect.AT_ONCE,
            '["198.18.66.0/24"]',
            more="New connections are refused; established ones go on.",
            unset="none",
        ),
        Setting(
            "overflow",
            Choice(get_args(Overflow)),
            'what connections above max_connections get: the "next" instance, or "refuse"; those of a daemon '
            "that keeps to it itself wait in its queue instead",
            Effect.AT_ONCE,
            '"refuse"',
        ),
        Setting(
            "when_empty",
            Choice(get_args(WhenEmpty)),
            'when all instances fail their probes: "keep" the last state, "refuse" or "drop" new connections',
            Effect.AT_ONCE,
            '"refuse"',
        ),
        Setting(
            "send_proxy",
            Switch(),
            "behind HAProxy: tell instances who their client is, by a PROXY protocol header before its first byte",
            Effect.AT_ONCE,
            "true",
            more="Instances must expect it (`portfleet-daemon --proxy-protocol`), from the connection on that is made "
            "right after the change. Probes then begin with such a header too, which names no client. On the data "
            "plane nftables instances see their clients themselves, and `check` refuses it.",
        ),
        Setting(
            "remote",
            Addresses(hint='write "203.0.113.2:7101"', remote=True),
            "instances on other boxes, live with either colour",
            Effect.AT_ONCE,
            '["203.0.113.2:7101"]',
            more="This box must forward packets (net.ipv4.ip_forward). An instance there must be reachable by every "
            "family that `listen` lets in. Clients on this box get local instances only.",
            unset="none",
        ),
        Setting(
            "remote_snat",
            Sources(),
            "the source address that remote instances see, one a family; [] leaves the clients'",
            Effect.AT_ONCE,
            '["192.0.2.100"]',
            more="Left out, it is the address that this box has towards them (masquerading), and connections end with "
            "this box. On a standby pair give the address that moves between the boxes: the other box can go on with "
            "the connections then. With [] an instance sees its clients, and its box must send the answers back "
            "through this one, or through the address that moves.",
            change="established connections keep theirs",
            unset="masquerading",
        ),
        Setting(
            "start_timeout",
            Duration(),
            "how long an instance may take to become ready",
            Effect.AT_ONCE,
            '"2m"',
        ),
        Setting(
            "min_ready",
            Duration(off=True),
            'how long an instance must live, once it is ready, for a verb to count it as started; or "off"',
            Effect.AT_ONCE,
            '"20s"',
            more="A release that listens and dies after seconds is found out before a client meets it: a cutover, "
            "`scale` and a rolling restart wait for it before they go on, `up` before it says that all is well.",
        ),
        Setting(
            "keep_releases",
            Number(1, 1000),
            "how many releases that were live are kept; older ones are named for removal",
            Effect.AT_ONCE,
            "5",
            more="`portfleet cutover` names them; nothing is deleted.",
        ),
        *PROCESS,
    ),
)
