"""The ways to one service that are compared: none, portfleet, HAProxy, nginx, iptables; C daemons behind each."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from benchmarks.lib.boxes import on_server_cpu, pids_in
from benchmarks.lib.build import ROOT, compile_c

sys.path.insert(0, str(ROOT / "tests"))

from support.fleet_box import FleetBox, fleet_box
from support.sandbox import Sandbox, sandbox, wait_for

_DAEMON = "c-daemon"
_FLEET = """
[service.echo]
listen = [":7000"]
command = ["{daemon}", "--port", "{{port}}"]
ports = "7100-7107"
instances = {number}
min_ready = "1s"
"""
_HAPROXY = """
global
    stats socket /run/haproxy.sock mode 600 level admin
    hard-stop-after 1h
    nbthread 1
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    retries 3
    option redispatch 1
listen echo
    bind :7001
    balance source
    hash-type consistent
{servers}
"""
_NGINX = """
worker_processes 1;
worker_rlimit_nofile 19000;
error_log /run/nginx.log;
pid /run/nginx.pid;
load_module modules/ngx_stream_module.so;
events {{ worker_connections 9000; }}
stream {{
    upstream echo {{
        hash $remote_addr consistent;
{servers}
    }}
    server {{
        listen 7002 backlog=4096;
        proxy_pass echo;
        proxy_timeout 1h;
    }}
}}
"""


@dataclass
class Daemons:
    """Daemons in a box without portfleet; `first` is the port of the first."""

    boxes: Sandbox
    first: int
    number: int
    _all: list[object] = field(default_factory=list)

    def start(self) -> None:
        """Start them; return when all listen."""
        for port in self.ports:
            words = ("env", f"PORTFLEET_CONTROL=/run/{port}.sock", str(daemon()), "--port", str(port))
            # A session each, as supervisord's programs have: the scheduler shares a CPU out by sessions (sched(7)).
            self._all.append(self.boxes.host.popen("setsid", *words))
        wait_for("daemons listen", lambda: len(listening(self.boxes, self.ports)) == self.number)

    @property
    def ports(self) -> Sequence[int]:
        """Return their ports."""
        return range(self.first, self.first + self.number)

    def pids(self) -> set[int]:
        """Return their processes."""
        return set().union(*(pids_in(self.boxes.host, _DAEMON, str(port)) for port in self.ports))


def daemon() -> object:
    """Return the daemon's program, compiled."""
    return compile_c(_DAEMON, "examples/c-daemon/daemon.c")


def listening(boxes: Sandbox, ports: Sequence[int]) -> set[int]:
    """Return those of ``ports`` that something listens on."""
    lines = boxes.host.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()
    return {port for port in ports for line in lines if f":{port:04X} " in line and " 0A " in line}


@dataclass
class Way:
    """One way: where clients dial, and its processes. A release leads new connections to other daemons."""

    boxes: Sandbox
    port: int
    old: Daemons | None = None
    new: Daemons | None = None

    def daemons(self) -> set[int]:
        """Return the processes of the daemons that it leads to before a release."""
        assert self.old
        return self.old.pids()

    def release(self) -> None:
        """Lead new connections to the other daemons, by the means that the way has."""
        raise NotImplementedError  # a direct connection has no means; it takes part in speed and not in releases


class Direct(Way):
    """No balancer: clients dial a daemon's own port."""


@dataclass
class Portfleet(Way):
    """A fleet behind nftables."""

    box: FleetBox | None = None

    def daemons(self) -> set[int]:
        return pids_in(self.boxes.host, _DAEMON)

    def release(self) -> None:
        assert self.box
        self.box.boxes.host.run(*self.box.argv("cutover", "echo", "--force"), timeout=120)


class Proxy(Way):
    """A proxy whose config in ``path`` leads to daemons by a ``line`` each; a release gives it another and a reload."""

    path: ClassVar[str]
    config: ClassVar[str]
    line: ClassVar[str]
    begin: ClassVar[str]
    reload: ClassVar[str]

    def configure(self, daemons: Daemons) -> None:
        """Write a config that leads to these daemons."""
        servers = "\n".join(self.line.format(port=port) for port in daemons.ports)
        self.boxes.host.run("sh", "-c", f"cat > {self.path}", text=self.config.format(servers=servers))

    def start(self) -> None:
        """Run it."""
        assert self.old
        self.configure(self.old)
        self.boxes.host.run("sh", "-c", self.begin)
        wait_for(f"{type(self).__name__} listens", lambda: listening(self.boxes, [self.port]))

    def release(self) -> None:
        assert self.new
        self.configure(self.new)
        self.boxes.host.run("sh", "-c", self.reload)


class Haproxy(Proxy):
    """HAProxy in TCP mode, one thread, with a master that reloads."""

    path, config = "/run/haproxy.cfg", _HAPROXY
    line = "    server s{port} 127.0.0.1:{port} check inter 1s"
    begin = "setsid haproxy -W -D -p /run/haproxy.pid -f /run/haproxy.cfg"
    reload = "kill -USR2 $(cat /run/haproxy.pid)"


class Nginx(Proxy):
    """nginx's stream module, one worker."""

    path, config = "/run/nginx.conf", _NGINX
    line = "        server 127.0.0.1:{port};"
    begin = "mkdir -p /var/log/nginx && setsid nginx -c /run/nginx.conf"
    reload = "nginx -c /run/nginx.conf -s reload"


class Iptables(Way):
    """A rule for each daemon: statistic chooses, REDIRECT leads there."""

    def load(self, daemons: Daemons) -> None:
        """Load rules that lead to these daemons, all at once."""
        rest = range(daemons.number, 1, -1)  # a quarter, a third of the rest, half of that, what is left
        choices = [*(f"-m statistic --mode random --probability {1 / number:.8f}" for number in rest), ""]
        rules = "".join(
            f"-A PREROUTING -p tcp --dport {self.port} {which} -j REDIRECT --to-ports {port}\n"
            for port, which in zip(daemons.ports, choices, strict=True)
        )
        self.boxes.host.run("iptables-restore", text=f"*nat\n{rules}COMMIT\n")

    def release(self) -> None:
        assert self.new
        self.load(self.new)


@contextmanager
def ways(number: int) -> Iterator[dict[str, Way]]:
    """Yield {name: way} to so many daemons, all on the servers' CPU; iptables' rules have boxes of their own."""
    with ExitStack() as stack:
        with on_server_cpu():
            box = stack.enter_context(fleet_box(_FLEET.format(daemon=daemon(), number=number)))
            made: dict[str, Way] = {"portfleet": Portfleet(box.boxes, 7000, box=box)}
            plain, ruled = stack.enter_context(sandbox()), stack.enter_context(sandbox())
            for place, kind in enumerate((Direct, Haproxy, Nginx, Iptables)):
                boxes = ruled if kind is Iptables else plain
                old, new = (Daemons(boxes, 7100 + begin + 20 * place, number) for begin in (0, 10))
                old.start()
                new.start()
                port = old.first if kind is Direct else 7000 + place
                way = made[kind.__name__.lower()] = kind(boxes, port, old, new)
                if isinstance(way, Proxy):
                    way.start()
                if isinstance(way, Iptables):
                    way.load(old)
        yield {name: made[name] for name in ("direct", "portfleet", "haproxy", "nginx", "iptables")}
