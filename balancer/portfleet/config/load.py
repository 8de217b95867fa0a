"""fleet.toml → Fleet: every problem at once, each with its path and a hint. Pure: the machine's facts are passed in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from portfleet.config.here import misfits
from portfleet.config.reader import Reader, key_text
from portfleet.config.rules import cross_check
from portfleet.config.settings import DRAIN, FLEET, FORWARD, METRICS, PAGE, PROBE, SERVICE
from portfleet.config.settings.table import Setting, Table
from portfleet.core.errors import ConfigError, Problem
from portfleet.core.model import Fleet, Machine, Metrics, Page, Service
from portfleet.core.policies import Drain, Forward, Probe
from portfleet.core.program import real_release

#: How a probe asks, as a hint.
_ASKS = {"send": 'send = "PING\\n"', "http": 'http = "/healthz"'}
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
#: Beginnings and ends of names that would be taken for something else: rules of services, and instances.
_RESERVED = "service-"
_LIKE_INSTANCE = r"-(blue|green|remote)-[0-9]+$"
#: All of it as one pattern, for the schema.
NAME_PATTERN = rf"^(?!{_RESERVED})(?!.*{_LIKE_INSTANCE}){NAME.pattern}$"


def load(data: bytes, machine: Machine, *, source: str) -> Fleet:
    """Read and check a whole config that is to be applied; raises ConfigError with every problem."""
    fleet, misfit = read(data, machine, source=source)
    if misfit:
        raise ConfigError(misfit, source=source)
    return fleet


def read(data: bytes, machine: Machine, *, source: str) -> tuple[Fleet, list[Problem]]:
    """Return the fleet of a config, and what is wrong with it on this machine.

    Raises ConfigError with every problem, those of the machine too, if it is wrong on any machine.
    """
    problems: list[Problem] = []
    top = Reader("", _parse(data, source), problems)
    whole = _whole(FLEET, top)
    metrics = Metrics(**_whole(METRICS, top))
    page = Page(**_whole(PAGE, top))
    forward = Forward(**_whole(FORWARD, top))
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
            services[name] = _here(_service(name, Reader(path, table, problems), machine), machine)
    fleet = Fleet(services, **whole, metrics=metrics, page=page, forward=forward)
    broken = {".".join(p.path.split(".")[:3]).split("[")[0] for p in problems}
    problems += [p for p in cross_check(fleet) if p.path.split("[")[0] not in broken]
    misfit = [p for p in misfits(fleet, machine) if p.path.split("[")[0] not in broken]
    if problems:
        raise ConfigError([*problems, *misfit], source=source)
    return fleet, misfit


def name_problem(name: str) -> tuple[str, str] | None:
    """Return what is wrong with a service's name (message, hint), or None; it becomes an identifier elsewhere."""
    rule = f"a service is named by {NAME.pattern}, as in echo or kv-cache"
    if not NAME.fullmatch(name):
        return f"{name!r} is not a name that can be used everywhere", rule
    if name.startswith(_RESERVED):
        return f'a name must not start with "{_RESERVED}" (chains of rules are named so)', rule
    if re.search(_LIKE_INSTANCE, name):
        return "a name must not end like an instance's (-blue-1, -green-1, -remote-1)", rule
    return None


def _parse(data: bytes, source: str) -> dict[str, Any]:
    hint = "write a commented example with: portfleet init"
    try:
        return tomllib.loads(data.decode("utf-8").removeprefix("\ufeff"))  # editors on Windows begin files with a BOM
    except UnicodeDecodeError as error:
        message = f"not a text file: byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise ConfigError([Problem("file", message, hint)], source=source) from None
    except ValueError as error:  # TOMLDecodeError is one; a number of 5,000 digits is refused by int itself
        raise ConfigError([Problem("file", f"not TOML: {error}", hint)], source=source) from None
    except RecursionError:
        raise ConfigError([Problem("file", "not TOML: lists within lists too deep", hint)], source=source) from None


def _service(name: str, read: Reader, machine: Machine) -> Service:
    # What must be there is nothing until it is read, and no fleet comes of a config in which it stays so.
    given = {"listen": (), "command": (), "ports": (0, 0), "instances": machine.cpus}
    values = _values(SERVICE, read, given)
    service = Service(name, **values, probe=_probe(read.sub("probe")), drain=_drain(read.sub("drain")))
    read.finish()
    for setting in SERVICE.settings:
        _ask(setting, read)
    return service


def _here(service: Service, machine: Machine) -> Service:
    """Return the service as it is on this machine: its release by its real path.

    Without IPv6 ":PORT", every local address, is IPv4 alone.
    """
    service = replace(service, release=real_release(service, service.release, machine.real))
    if machine.ipv6:
        return service
    listens = (replace(listen, families=(4,)) if 4 in listen.families else listen for listen in service.listen)
    return replace(service, listen=tuple(dict.fromkeys(listens)))


def _whole(table: Table, top: Reader) -> dict[str, Any]:
    """Return what the keys of a table of the whole fleet are set to."""
    found = top.sub(table.path)
    values = _values(table, found)
    found.finish()
    return values


def _values(table: Table, read: Reader, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the keys of ``table`` are set to, or else their defaults; those the model lacks are ``given``."""
    defaults = table.defaults() | dict(given or {})
    return {
        setting.key: setting.kind.read(read, setting.key, default=defaults[setting.key], example=setting.example)
        for setting in table.settings
    }


def _ask(setting: Setting, read: Reader) -> None:
    """Note a key that must be there and is not, or is an empty list; one of another kind has been noted before."""
    if setting.asks is None:
        return
    lacks = "is missing" if setting.key not in read.table else "is empty" if read.table[setting.key] == [] else ""
    if lacks and not any(problem.path == f"{read.path}.{setting.key}" for problem in read.problems):
        question = f": {setting.asks}" if setting.asks else ""
        read.wrong(setting.key, lacks + question, f"for example {setting.key} = {setting.example}")


def _probe(read: Reader) -> Probe:
    probe = Probe(**_values(PROBE, read))
    read.finish()
    kinds = [key for key in ("send", "http", "exec") if getattr(probe, key) not in (None, ())]
    if len(kinds) > 1:
        read.wrong(kinds[1], f"and {kinds[0]} are set: a probe asks in one way", f"leave {kinds[0]} or {kinds[1]} out")
    for key, of in (("expect", ("send",)), ("status", ("http", "exec"))):
        if getattr(probe, key) is not None and not {*kinds} & {*of}:
            words = f"is set but {' or '.join(of)} is not: nothing would be asked"
            read.wrong(key, words, f"set {of[0]}, for example {_ASKS[of[0]]}")
    return probe


def _drain(read: Reader) -> Drain:
    drain = Drain(**_values(DRAIN, read))
    read.finish()
    return drain
