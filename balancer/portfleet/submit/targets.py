"""What an operation is about: SERVICE or SERVICE/INSTANCE, by the config that was applied last."""

from __future__ import annotations

from portfleet.apply.context import Context
from portfleet.core.desired import DesiredInstance, DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import parse_instance
from portfleet.core.records import ServiceRecord
from portfleet.store.out import left_out


def service_want(context: Context, name: str) -> DesiredService:
    """Return a service as it shall be by the config that was applied last; raises PortfleetError."""
    return context.service_up(context.applied_fleet, name)


def record_of(context: Context, service: str) -> ServiceRecord:
    """Return a service's record in the journal."""
    return context.desired(context.applied_fleet).journal.services[service]


def targets(context: Context, text: str) -> tuple[DesiredService, list[DesiredInstance]]:
    """Read SERVICE or SERVICE/INSTANCE; return the service and the instances meant (all of the live colour).

    Raises PortfleetError (exit 2) for what does not exist.
    """
    service, slash, name = text.partition("/")
    if slash and not name:
        words = f"{text!r} names no instance: is a variable of the shell unset?"
        raise PortfleetError(words, hint=f"all instances are meant by {service}", code=Exit.USAGE)
    if not name and (instance := parse_instance(service)):
        service, name = instance.service, service
    want = service_want(context, service)
    live = [i for i in want.instances if i.instance.colour in (want.live, None)]
    if not name:
        return want, [i for i in live if i.instance.colour is not None]
    full = name if parse_instance(name) else f"{service}-{want.live}-{name}"
    found = [i for i in want.instances if i.name == full]
    if not found:
        raise PortfleetError(
            f"service {service} has no instance {name!r}",
            hint=f"instances are: {', '.join(i.name for i in live)}",
            code=Exit.USAGE,
        )
    return want, found


def serving(context: Context, want: DesiredService) -> list[DesiredInstance]:
    """Return the instances that serve now: they shall take connections and are not out by the watcher's word."""
    out = left_out(context.paths, context.plane.read_slots(want.name))
    return [i for i in want.instances if i.takes and i.name not in out]
