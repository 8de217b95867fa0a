"""The processes that run: told what the files say, and compared with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from portfleet.core.errors import PortfleetError
from portfleet.dataplane.haproxy import text
from portfleet.dataplane.haproxy.client import Client
from portfleet.dataplane.haproxy.state import State, Unit
from portfleet.dataplane.haproxy.text import Place


def clients(place: Place) -> list[Client]:
    """Return the processes that answer. One that does not run needs nothing: it begins with the files."""
    found = (Client(n, place.socket(n), place.master(n)) for n in place.numbers)
    return [client for client in found if client.there()]


def reload(client: Client, place: Place) -> None:
    """Have a process load the files if it runs another configuration: it may have read them before the last change."""
    written = place.config(client.number).read_text()
    said = client.description
    if any(f" {word}={said.get(word)} " not in written for word in ("home", "rules")):
        client.reload(written.partition(" rules=")[2].partition(" ")[0])


def bring(client: Client, state: State, services: Collection[str], place: Place) -> None:
    """Change what a process has of ``services`` to what the files say, so that no slot ever leads nowhere.

    Weights go first where they end and last where they begin: a connection that is refused meanwhile is dispatched to
    servers that serve before and after.
    """
    try:
        _bring_all(client, state, services, place)
    except PortfleetError:  # what it had was told by the worker that is just being replaced, it may be
        _bring_all(client, state, services, place)


def _bring_all(client: Client, state: State, services: Collection[str], place: Place) -> None:
    has = client.weights()
    for name in services:
        unit = state.unit(name)
        if unit.rule is not None:
            _bring(client, name, unit, has.get(name, {}), place)


def _bring(client: Client, name: str, unit: Unit, has: dict[str, int], place: Place) -> None:
    wanted = text.weights(unit)
    for server, options in text.servers(unit, source=text.source(client.number)).items():
        if server not in has:
            client.add_server(name, server, options)
    client.tell(f"set server {name}/{server} weight 0" for server, now in has.items() if now and not wanted.get(server))
    for kind, entries in text.maps(unit, place).items():
        client.set_map(place.map(name, kind), entries)
    client.tell(
        f"set server {name}/{server} weight 1" for server, weight in wanted.items() if weight and not has.get(server)
    )
    if unit.listens and (name in client.open_frontends()) == unit.closed:
        client.tell([f"{'disable' if unit.closed else 'enable'} frontend {name}"])


def drift(client: Client, state: State, place: Place) -> Iterator[str]:
    """Return the services and instances that a process has otherwise than the files, "" if all of it is."""
    said = client.description
    if said.get("rules") != text.digest(state, place):
        yield ""
        return
    weights = client.weights()
    open_ = client.open_frontends()
    for name, _, unit in state.services():
        has = weights.get(name, {})
        if any(has.get(server) != weight for server, weight in text.weights(unit).items()):
            yield name
        if unit.listens and (name in open_) == unit.closed:
            yield name
        for kind, entries in text.maps(unit, place).items():
            now = client.read_map(place.map(name, kind))
            if now is None or now == entries:
                continue
            if kind == "instances":
                yield from (one for one, server in entries.items() if now.get(one) != server)
                if now.keys() - entries.keys():
                    yield name
            else:
                yield name
