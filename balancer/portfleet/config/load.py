"""fleet.toml → Fleet: every problem at once, each with its path and a hint. Pure: the machine's facts are passed in."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Literal, cast

from portfleet.config.reader import Reader, key_text, parse_affinity, parse_listen, short
from portfleet.config.rules import cross_check
from portfleet.core.errors import ConfigError, Problem
from portfleet.core.model import Affinity, Drain, Fleet, Listen, Machine, Probe, Service

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_LIKE_INSTANCE = re.compile(r"-(blue|green|remote)-\d+$")
_LISTEN_HINT = 'write ":7000", "0.0.0.0:7000", "[::]:7000", "192.0.2.1:7000" or "[2001:db8::1]:7000"'
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load(data: bytes, machine: Machine, *, source: str) -> Fleet:
    """Read and check a whole config; raises ConfigError with every problem."""
    problems: list[Problem] = []
    top = Reader("", _parse(data, source), problems)
    fleet_table = top.sub("fleet")
    drift = cast(Literal["repair", "report"], fleet_table.choice("drift", "repair", ("repair", "report")))
    fleet_table.finish()
    tables = top.table.get("service")
    top.known.append("service")
    top.finish()
    problems[:] = [Problem(p.path.removeprefix("."), p.message, p.hint) for p in problems]
    services: dict[str, Service] = {}
    if not isinstance(tables, dict) or not tables:
        problems.append(Problem("service", "no service is defined", "add a table [service.NAME]; see portfleet init"))
        tables = {}
    for name, table in tables.items():
        path = f"service.{key_text(name)}"
        if problem := name_problem(name):
            problems.append(Problem(path, problem[0], problem[1]))
        elif not isinstance(table, dict):
            problems.append(Problem(path, "must be a table", f"write [service.{name}]"))
        else:
            services[name] = _service(name, Reader(path, table, problems), machine)
    fleet = Fleet(services, drift)
    problems += cross_check(fleet, machine, broken={".".join(p.path.split(".")[:3]).split("[")[0] for p in problems})
    if problems:
        raise ConfigError(problems, source=source)
    return fleet


def name_problem(name: str) -> tuple[str, str] | None:
    """Return what is wrong with a service's name (message, hint), or None; it becomes an identifier elsewhere."""
    rule = "a service is named by [a-z][a-z0-9-]{0,30}, as in echo or kv-cache"
    if not NAME.fullmatch(name):
        return f"{name!r} is not a name that nft and supervisord take", rule
    if name.startswith("service-"):
        return 'a name must not start with "service-" (nft chains are named so)', rule
    if _LIKE_INSTANCE.search(name):
        return "a name must not end like an instance's (-blue-1, -green-1, -remote-1)", rule
    return None


def _parse(data: bytes, source: str) -> dict[str, Any]:
    hint = "write a commented example with: portfleet init"
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"not a text file: byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise ConfigError([Problem("file", message, hint)], source=source) from None
    except ValueError as error:  # TOMLDecodeError is one; a number of 5,000 digits is refused by int itself
        raise ConfigError([Problem("file", f"not TOML: {error}", hint)], source=source) from None
    except RecursionError:
        raise ConfigError([Problem("file", "not TOML: lists within lists too deep", hint)], source=source) from None


def _service(name: str, read: Reader, machine: Machine) -> Service:
    service = Service(
        name=name,
        listen=_listens(read, "listen"),
        command=read.texts("command", example='["redis-server", "--port", "{port}"]'),
        release=read.text("release", None),
        releases=read.text("releases", None),
        directory=read.text("directory", None),
        user=read.text("user", None),
        environment=_environment(read),
        control=cast(Any, read.choice("control", "auto", ("auto", "off"))),
        instances=read.number("instances", machine.cpus, low=1, high=1024),
        ports=_ports(read),
        slots=read.number("slots", 4096, low=256, high=65536),
        affinity=read.parsed("affinity", parse_affinity, Affinity("source"), hint=_AFFINITY_HINT),
        sticky=read.duration_or_off("sticky"),
        sticky_size=read.number("sticky_size", 300_000, low=1024, high=16_777_216),
        weight=_weights(read),
        max_connections=read.number("max_connections", 0, low=0, high=16_777_216),
        overflow=cast(Any, read.choice("overflow", "next", ("next", "refuse"))),
        when_empty=cast(Any, read.choice("when_empty", "keep", ("keep", "refuse", "drop"))),
        remote=_listens(read, "remote"),
        start_timeout=read.duration("start_timeout", 30.0),
        keep_releases=read.number("keep_releases", 3, low=1, high=1000),
        probe=_probe(read.sub("probe")),
        drain=_drain(read.sub("drain")),
    )
    read.finish()
    if "listen" not in read.table:
        read.wrong("listen", "is missing: what do clients dial?", 'for example listen = [":7000"]')
    elif read.table["listen"] == []:
        read.wrong("listen", "is empty: what do clients dial?", 'for example listen = [":7000"]')
    if "command" not in read.table:
        read.wrong("command", "is missing", 'for example command = ["redis-server", "--port", "{port}"]')
    elif not service.command and read.table["command"] == []:
        read.wrong("command", "is empty", 'for example command = ["redis-server", "--port", "{port}"]')
    if "ports" not in read.table:
        read.wrong("ports", "is missing: the ports of the instances of both colours", 'for example ports = "7100-7199"')
    return service


_AFFINITY_HINT = 'write "source", "source/24", "source/24/56", "connection", "round-robin" or "random"'


def _listens(read: Reader, key: str) -> tuple[Listen, ...]:
    found: list[Listen] = []
    example = '[":7000"]' if key == "listen" else '["203.0.113.2:7101"]'
    for number, text in enumerate(read.texts(key, example=example)):
        try:
            listen = parse_listen(text)
        except ValueError as error:
            hint = _LISTEN_HINT if key == "listen" else 'write "203.0.113.2:7101"'
            read.wrong(f"{key}[{number}]", f'"{text}": {error}', hint)
            continue
        if key == "remote" and listen.address is None:
            read.wrong(f"remote[{number}]", f'"{text}" names no box', 'write its address, as in "203.0.113.2:7101"')
        elif listen in found:
            read.wrong(f"{key}[{number}]", f'"{text}" is there twice', "remove one of them")
        elif key == "listen" and (wider := _contains(found, listen)):
            read.wrong(f"{key}[{number}]", f'"{text}" and "{wider}" let the same clients in', "remove one of them")
        else:
            found.append(listen)
    return _joined(found)


def _joined(found: list[Listen]) -> tuple[Listen, ...]:
    """Write "0.0.0.0:P" beside "[::]:P" as ":P", which is what the kernel's table is read back as."""
    both = {listen.port for listen in found if listen.address is None and listen.families == (6,)}
    both &= {listen.port for listen in found if listen.address is None and listen.families == (4,)}
    joined = (Listen(x.port, None, (4, 6)) if x.address is None and x.port in both else x for x in found)
    return tuple(dict.fromkeys(joined))


def _contains(found: list[Listen], listen: Listen) -> Listen | None:
    same = (other for other in found if (other.port, other.address) == (listen.port, listen.address))
    return next((other for other in same if {*other.families} & {*listen.families}), None)


def _environment(read: Reader) -> dict[str, str]:
    found = read.mapping("environment", str, word="a string", example='{ PYTHONPATH = "{release}" }')
    for name in found:
        path = f"environment.{key_text(name)}"
        if not _ENVIRONMENT_NAME.fullmatch(name):
            read.wrong(path, "is not the name of an environment variable", "use letters, digits and _")
        elif name.startswith("PORTFLEET_"):
            read.wrong(path, "names that start with PORTFLEET_ are set by portfleet itself", "choose another name")
    return found


def _weights(read: Reader) -> dict[str, int]:
    found = read.mapping("weight", int, word="a whole number", example="{ 1 = 2, 4 = 0 }")
    for member, weight in found.items():
        if not 0 <= weight <= 1000:
            hint = "for example weight = { 1 = 2, 4 = 0 }"
            read.wrong(f"weight.{key_text(member)}", f"{short(weight)} is not within 0 … 1000", hint)
    return found


def _ports(read: Reader) -> tuple[int, int]:
    def parse(text: str) -> tuple[int, int]:
        match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
        if not match or not 1 <= int(match[1]) < int(match[2]) <= 65535:
            raise ValueError(f'"{text}" is not a range of ports LOW-HIGH within 1-65535')
        return int(match[1]), int(match[2])

    return read.parsed("ports", parse, (0, 0), hint='for example ports = "7100-7199"')


def _probe(read: Reader) -> Probe:
    probe = Probe(
        send=read.raw("send", example='"PING\\n"'),
        expect=read.raw("expect", example='"PONG"'),
        interval=read.duration("interval", 1.0),
        timeout=read.duration("timeout", 0.5),
        fall=read.number("fall", 3, low=1, high=100),
        rise=read.number("rise", 2, low=1, high=100),
        restart_after=read.duration_or_off("restart_after"),
    )
    read.finish()
    if probe.expect is not None and probe.send is None:
        read.wrong("expect", "is set but send is not: nothing would be asked", 'set send, for example send = "PING\\n"')
    return probe


def _drain(read: Reader) -> Drain:
    drain = Drain(
        rate=read.number("rate", 500, low=1, high=1_000_000),
        deadline=read.duration("deadline", 600.0),
        then=cast(Any, read.choice("then", "wait", ("wait", "evict", "kill"))),
    )
    read.finish()
    return drain
