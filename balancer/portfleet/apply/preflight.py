"""What is looked at before anything is begun: what cannot end well is refused with every reason."""

from __future__ import annotations

from portfleet.core.errors import Exit, PortfleetError, Problem
from portfleet.core.model import Fleet
from portfleet.core.observed import Observed
from portfleet.linux.machine import sysctl

_FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


def refuse(fleet: Fleet, observed: Observed) -> None:
    """Raise PortfleetError where ports are taken, packets would not be forwarded, or the kernel lacks something."""
    if observed.strangers:
        lines = [f"{name}: {words}" for name, words in sorted(observed.strangers.items())]
        raise PortfleetError(
            "ports of instances are taken by others; nothing was changed\n  " + "\n  ".join(lines),
            hint="end that process, or choose other ports in fleet.toml",
        )
    if problems := forwarding(fleet):
        lines = [f"{problem.path}: {problem.message}" for problem in problems]
        raise PortfleetError("\n".join([*lines, "nothing was changed"]), hint=problems[0].hint, code=Exit.USAGE)
    if observed.plane.home is None:
        from portfleet.dataplane.nft import capabilities

        if lacks := capabilities.missing():
            raise PortfleetError(
                "this kernel or libnftables lacks what the rules are made of; nothing was changed\n  "
                + "\n  ".join(lacks),
                hint="Debian 12 and later, or Linux 5.10 with nft 1.0.2, have it all; portfleet doctor looks again",
                code=Exit.KERNEL,
            )


def forwarding(fleet: Fleet) -> list[Problem]:
    """Return a problem for each remote instance to which this box would not forward packets."""
    return [
        Problem(
            f"service.{service.name}.remote[{number}]",
            f"{name} is 0: this box would not forward clients' packets to {remote}",
            f"sysctl -w {name}=1 (and in /etc/sysctl.d, for the next boot)",
        )
        for service in fleet.services.values()
        for number, remote in enumerate(service.remote)
        for family in remote.families
        if sysctl(name := _FORWARDING[family], "0") == "0"
    ]
