"""What is shown of a service and its instances, as values for JSON and for screens: `status` and `top` agree by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from portfleet.core.desired import DesiredInstance, DesiredService
from portfleet.core.journal import Journal
from portfleet.core.model import member_instance
from portfleet.core.observed import Observed, ObservedInstance, Out, Retry
from portfleet.core.paths import Paths
from portfleet.core.records import Asked
from portfleet.core.slots import count
from portfleet.core.states import State, Wanted, state_of
from portfleet.screen import colours
from portfleet.screen.serving import closed, not_serving, served
from portfleet.store.clock import stamp
from portfleet.supervise.exit_report import last_exit, last_lines

_BY_REQUEST = (State.DRAINING, State.DRAINED, State.MAINTENANCE)


def service_entry(service: DesiredService, observed: Observed, journal: Journal, paths: Paths) -> dict[str, Any]:
    """Return what `status --json` says of a service."""
    asked = journal.services[service.name].asked
    slots = count(observed.plane.slots.get(service.name, ()))
    instances = [instance_entry(want, observed, slots, paths, asked) for want in service.instances]
    return {
        "name": service.name,
        "live": service.live,
        "listen": [str(listen) for listen in service.service.listen],
        "affinity": str(service.service.affinity),
        "release": service.release,
        "slots": service.service.slots,
        "served": served(service, observed, instances),
        "not_serving": [] if service.down else not_serving(service, instances),
        "closed": [] if service.down else [str(listen) for listen in closed(service, observed)],
        "instances": instances,
        "colours": colours.values(service, observed, journal),
        "operation": colours.operation(service, journal),
        "down": service.down or None,
        "pins": pins_of(service, journal),
        "access": access_of(service, observed, journal),
    }


def access_of(service: DesiredService, observed: Observed, journal: Journal) -> dict[str, Any]:
    """Return who may connect: the config's `allow`, and every denial that has not ended, the operators' with why."""
    denied = journal.services[service.name].denied
    rows = [{"network": network, "until": None, "since": None, "who": "fleet.toml", "why": None}
            for network in service.service.deny]  # fmt: skip
    rows += [
        {"network": network, "until": stamp(one.until) if one.until else None}
        | {"since": one.since, "who": one.who, "why": one.why or None}
        for network, one in denied.items()
        if network not in service.service.deny and (one.until is None or one.until > observed.at)
    ]
    return {"allow": list(service.service.allow), "deny": rows, "max_per_source": service.service.max_per_source}


def pins_of(service: DesiredService, journal: Journal) -> dict[str, str]:
    """Return {network: instance of the live colour}, as they were pinned."""
    found = journal.services[service.name].pins
    return {network: member_instance(service.name, member, service.live).name for network, member in found.items()}


def instance_entry(
    want: DesiredInstance, observed: Observed, slots: Counter[str], paths: Paths, asked: Mapping[str, Asked]
) -> dict[str, Any]:
    """Return what `status --json` says of an instance. ``slots``: how many each one has; ``asked``: by operators."""
    seen, out, retry = observed.seen(want.name), observed.out.get(want.name), observed.retries.get(want.name)
    remote = want.rule.remote
    state = _state(want, seen, slots, ejected=out is not None, looping=retry is not None)
    retry = retry if state is State.FAILED else None
    down = state is State.FAILED or (state is State.EJECTED and seen.pid is None)
    local = down and remote is None
    return {
        "name": want.name,
        "colour": want.instance.colour,
        "address": str(remote.address) if remote else "local",
        "port": want.rule.port,
        "extra_ports": dict(want.extra_ports),
        "wanted": want.wanted,
        "state": state,
        "pid": seen.pid,
        "slots": slots[want.name],
        "connections": seen.connections or 0,
        "since": _since(seen, out, asked.get(want.name) if state in _BY_REQUEST else None),
        "why": _why(state, seen, out, retry) or None,
        "next_try": retry.at if retry else None,
        "attempt": retry.attempt or None if retry else None,
        "adopted": seen.adopted,
        "last_exit": str(ended) if local and (ended := last_exit(paths, want.name)) else None,
        "last_log": last_lines(paths.log_of(want.name)) if local else [],
    }


def at_rest(entry: Mapping[str, Any]) -> bool:
    """Return whether an instance is stopped and is to be: screens leave it out."""
    return bool(entry["wanted"] == Wanted.STOPPED and entry["state"] == State.STOPPED)


def _since(seen: ObservedInstance, out: Out | None, asked: Asked | None) -> str | None:
    """Return when an instance's state was the last to change: ejected, asked for, or by its process."""
    if told := out or asked:
        return told.since
    return stamp(seen.since) if seen.since else None


def _why(state: State, seen: ObservedInstance, out: Out | None, retry: Retry | None) -> str:
    """Return why an instance does not serve; of one that has failed what it is itself comes before who says so."""
    if state is State.FAILED and (words := seen.fault or (retry.reason if retry else "")):
        return words
    return out.reason if out else seen.fault or seen.waiting


def _state(
    want: DesiredInstance, seen: ObservedInstance, slots: Counter[str], *, ejected: bool, looping: bool
) -> State:
    return state_of(
        wanted=want.wanted,
        program=seen.program,
        ready=seen.ready,
        fault=seen.fault,
        slots=slots[want.name],
        connections=seen.connections or 0,
        ejected=ejected,
        looping=looping,
        remote=want.rule.remote is not None,
    )
