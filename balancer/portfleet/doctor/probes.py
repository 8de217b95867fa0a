"""Whether a daemon that hangs would be noticed, by service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from portfleet.core.model import Fleet
from portfleet.doctor.finding import Finding, fine, warning

_MEND = "set probe.send, probe.http or probe.exec in [service.{name}.probe]"


def unasked(fleet: Fleet) -> dict[str, str]:
    """Return what `check` says of services whose probes are a connect, which the kernel answers for a hung daemon."""
    return {
        name: ("" if service.control == "off" else "unless it answers on a control socket, ")
        + f"a daemon that hangs is not noticed: {_MEND.format(name=name)}"
        for name, service in fleet.services.items()
        if not service.probe.asks
    }


def judge(fleet: Fleet, speaks: Mapping[str, bool]) -> Iterator[Finding]:
    """Judge the probes of each service. ``speaks``: whether its running instances answer on their control sockets."""
    for name, service in fleet.services.items():
        if service.probe.asks or speaks.get(name):
            yield fine(f"probe of {name}", "a daemon that hangs is noticed")
        elif name in speaks or service.control == "off":
            yield warning(
                f"probe of {name}",
                "is a connect, and its daemons do not answer on a control socket",
                why="the kernel accepts connections for a daemon that hangs, so that it keeps its clients",
                mend=_MEND.format(name=name),
            )
