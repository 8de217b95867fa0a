"""What shall be: the config and the journal together. Pure: the journal comes in, a newer one comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from portfleet.core.changes import InstanceRule, ServiceRule, Sticky
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.journal import Journal
from portfleet.core.model import (
    COLOURS,
    Colour,
    Fleet,
    Instance,
    Listen,
    Service,
    differing,
    family_of,
    member_instance,
    seed_of,
)
from portfleet.core.observed import ObservedInstance
from portfleet.core.paths import Paths
from portfleet.core.pins import flatten
from portfleet.core.program import make_program
from portfleet.core.records import ColourRecord, ServiceRecord
from portfleet.core.slots import Table, assign
from portfleet.core.states import Wanted


def settle(fleet: Fleet, journal: Journal) -> Journal:
    """Return the journal as it goes with the config: new services get a record, changed ones keep what they can.

    Every instance has a number then, and every service a home table of its members. Settled again, it is the same. In
    what order the config names the services does not matter: two boxes that begin with the same ones number alike.
    """
    return _settled(fleet, journal)[0]


def _settled(fleet: Fleet, journal: Journal) -> tuple[Journal, dict[str, list[Instance]]]:
    """Return the journal as `settle` does, and the instances of each service."""
    found = {}
    for _, configured in sorted(fleet.services.items()):
        record = _record(configured, journal)
        service = _scaled(configured, record)
        instances = found[service.name] = list(_instances(service, record))
        unnumbered = [one.name for one in instances if one.name not in record.numbers]
        numbers = dict(zip(unnumbered, journal.free_numbers(), strict=False))
        home = _home(service, record.home)
        if numbers or home != record.home:
            before = record.before if home == record.home else record.home
            record = replace(record, numbers={**record.numbers, **numbers}, home=home, before=before)
        if journal.services.get(service.name) is not record:
            journal = journal.with_service(service.name, record)
        if numbers:
            journal = replace(journal, last_number=numbers[unnumbered[-1]])
    return journal, found


def carried(fleet: Fleet, journal: Journal, before: Fleet) -> Journal:
    """Return the journal with which ``fleet`` is applied after ``before``.

    How instances are started goes with a release. The live colour is started anew as the config says now, unless that
    names another release: a cutover is what makes both hold. The idle colour stays what a rollback returns to.
    """
    for service in fleet.services.values():
        old, record = before.services.get(service.name), journal.services.get(service.name)
        if old is None or record is None or old.launch == service.launch:
            continue
        live = record.colours.get(record.live, ColourRecord())
        waits = service.release not in (record.config_release, live.release)
        for colour, ran in record.colours.items():
            if colour == record.live and not waits:
                record = record.with_colour(colour, replace(ran, launch=None))
            else:
                record = record.with_launch(colour, old.launch)
        journal = journal.with_service(service.name, record)
    return journal


def make_desired(fleet: Fleet, journal: Journal, paths: Paths) -> Desired:
    """Join config and journal, which is settled first and goes with the result."""
    journal, instances = _settled(fleet, journal)
    services = {}
    for configured in fleet.services.values():
        record, those = journal.services[configured.name], instances[configured.name]
        want = _want(_scaled(configured, record), record, those, paths, _notes(configured, record), inside=fleet.inside)
        services[configured.name] = _stopped(want, record.down) if record.down else want
    return Desired(services, journal, paths.identity)


def learned(desired: Desired, seen: Mapping[str, ObservedInstance], paths: Paths) -> Desired:
    """Return what shall be, going by what instances say of themselves; ``desired`` itself if that changes nothing."""
    services, journal = dict(desired.configured), desired.journal
    for want in desired.services.values():
        counts = _counts(want, seen)
        if counts != want.record.counts:
            record = replace(want.record, counts=counts)
            inside = any(instance.inside for instance in want.instances)
            those = [one.instance for one in want.instances]
            services[want.name] = _want(want.service, record, those, paths, want.notes, inside=inside)
            journal = journal.with_service(want.name, record)
    return replace(desired, configured=services, journal=journal) if journal is not desired.journal else desired


def _counts(want: DesiredService, seen: Mapping[str, ObservedInstance]) -> bool:
    """Return whether the instances of a service that are ready keep to ``max_connections`` themselves.

    Of those that were never ready it is not known; the kernel counts for them until they are.
    """
    limit = want.service.max_connections
    ready = [seen[i.name] for i in want.instances if i.program is not None and i.name in seen and seen[i.name].ready]
    if not limit or not ready:
        return want.record.counts
    return all(one.status is not None and one.status.keeps_to(limit) for one in ready)


def _stopped(want: DesiredService, down: str) -> DesiredService:
    instances = tuple(replace(one, wanted=Wanted.STOPPED, program=None) for one in want.instances)
    notes = (f"down by {down}; up again with: portfleet up",)
    return replace(want, instances=instances, notes=notes, down=down)


def _record(service: Service, journal: Journal) -> ServiceRecord:
    """Return the service's record, made anew if there is none."""
    record = journal.services.get(service.name)
    if record is None:
        colours: dict[Colour, ColourRecord] = {"blue": ColourRecord(release=service.release)}
        return ServiceRecord("blue", seed_of(service.name), (), colours=colours, config_release=service.release)
    if record.instances is not None and record.config_instances != service.instances:
        # The config's own number has changed since `scale`: it counts, also if it is the old one again some day.
        return replace(record, instances=None, config_instances=None)
    return record


def _notes(service: Service, record: ServiceRecord) -> tuple[str, ...]:
    """Return what the plan has to say about a service."""
    ran = record.colours.get(record.live, ColourRecord())
    notes = []
    if service.release not in (record.config_release, ran.release):
        running = ran.release or "none"
        notes.append(f"release differs: {running} runs, {service.release} is configured: cutover needed")
    if ran.launch is not None and (keys := differing(ran.launch, service.launch)):
        notes.append(f"{', '.join(keys)} differ: what runs keeps its own until a cutover")
    return tuple(notes)


def _scaled(service: Service, record: ServiceRecord) -> Service:
    """Return the service with the number of instances that `scale` asked for, until the config's own number changes."""
    if record.instances is None:
        return service
    return replace(service, instances=min(record.instances, service.most_instances))


def _home(service: Service, home: Table) -> Table:
    weights = {instance.member: service.weight.get(instance.member, 1) for instance in _members(service)}
    previous = home if len(home) == service.slots else (None,) * service.slots
    return assign(previous, weights)


def _members(service: Service, colour: Colour = "blue") -> Iterator[Instance]:
    yield from (Instance(service.name, colour, number + 1) for number in range(service.instances))
    yield from (Instance(service.name, None, number + 1) for number in range(len(service.remote)))


def _instances(service: Service, record: ServiceRecord) -> Iterator[Instance]:
    """Return the instances of both colours, with those that are leaving, then the remote ones."""
    leaving = min(record.leaving, service.most_instances)  # the config may have fewer ports by now
    for colour in COLOURS:
        yield from (Instance(service.name, colour, number + 1) for number in range(max(service.instances, leaving)))
    yield from (Instance(service.name, None, number + 1) for number in range(len(service.remote)))


def _want(
    service: Service,
    record: ServiceRecord,
    instances: Iterable[Instance],
    paths: Paths,
    notes: tuple[str, ...],
    *,
    inside: bool,
) -> DesiredService:
    wants = tuple(_instance_want(service, instance, record, paths, inside=inside) for instance in instances)
    running = record.colours.get(record.live, ColourRecord())
    limited = [want for want in wants if want.rule.limit]
    rule = ServiceRule(
        service.name,
        service.affinity,
        record.seed,
        service.slots,
        sticky=_sticky(service),
        pins=bool(record.pins),
        remote=bool(service.remote),
        limited=bool(limited),
        tries=len(limited) if service.overflow == "next" else 0,
        empty=service.when_empty,
        filters=bool(service.allow or service.deny or record.denied),
        allows=bool(service.allow),
        per_source=service.max_per_source,
        proxy=service.send_proxy,
    )
    names = {want.name for want in wants}
    pins = {
        network: name
        for network, member in flatten(record.pins).items()
        if (name := member_instance(service.name, member, record.live).name) in names
    }
    return DesiredService(
        service,
        record.live,
        record.home,
        rule,
        wants,
        record,
        running.release,
        notes,
        record.canary,
        record.moved,
        pins,
        {network: denied.until for network, denied in record.denied.items()} | dict.fromkeys(service.deny),
    )


def _sticky(service: Service) -> Sticky | None:
    # Data planes count in whole seconds.
    return Sticky(max(1, math.ceil(service.sticky)), service.sticky_size) if service.sticky else None


def _snat(service: Service, remote: Listen) -> str | None:
    """Return the source address that an instance on another box sees; see `InstanceRule.snat`."""
    if service.remote_snat is None:
        return None
    return next((address for address in service.remote_snat if family_of(address) in remote.families), "")


def _instance_want(
    service: Service, instance: Instance, record: ServiceRecord, paths: Paths, *, inside: bool
) -> DesiredInstance:
    name, number = instance.name, record.numbers[instance.name]
    weight = service.weight.get(instance.member, 1)
    asked = record.asked.get(name)
    serving = Wanted(asked.wanted) if asked else Wanted.SERVING
    sticky = _sticky(service)
    key = service.affinity if sticky else None
    if instance.colour is None:
        remote = service.remote[instance.number - 1]
        snat = _snat(service, remote)
        rule = InstanceRule(name, number, remote.port, sticky=sticky, key=key, remote=remote, snat=snat)
        return DesiredInstance(instance, serving, weight, rule, None)
    if instance.number > service.instances:  # it is leaving, so it stands in for no other
        serving, weight = Wanted.DRAINED, 0
    port = service.port_of(instance.colour, instance.number)
    # A daemon that counts for itself does it better: a connection that was handed off keeps the number it came by.
    limit = 0 if record.counts else service.max_connections
    spills = not limit or service.overflow == "next"
    rule = InstanceRule(name, number, port, sticky=sticky, key=key, limit=limit, spills=spills)
    extra = service.extra_of(port)
    colour = record.colours.get(instance.colour)
    if colour is None or colour.stopped:
        return DesiredInstance(instance, Wanted.STOPPED, weight, rule, None, inside=inside, extra_ports=extra)
    program = make_program(
        launched := service.launched(colour.launch),
        name=name,
        colour=instance.colour,
        port=port,
        release=colour.release,
        command=colour.command or launched.command,
        control=paths.control(name, user=launched.user),
        log=paths.log_name(name),
        host="127.0.0.1" if inside else "::",
    )
    # What is in maintenance stays down, live or idle.
    live = instance.colour == record.live or record.canary or serving is Wanted.MAINTENANCE
    wanted = serving if live else Wanted.IDLE
    asks = service.control == "auto"
    return DesiredInstance(instance, wanted, weight, rule, program, asked=asks, inside=inside, extra_ports=extra)
