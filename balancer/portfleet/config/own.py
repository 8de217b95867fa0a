"""Checks of what a service's instances have beside their port: other ports, and files that are made for them."""

from __future__ import annotations

from collections.abc import Iterator

from portfleet.config.reader import key_text
from portfleet.core.errors import Problem
from portfleet.core.model import Fleet, Service
from portfleet.core.placeholders import placeholders


def files(service: Service, path: str) -> Iterator[Problem]:
    """Yield the files that two instances would share: each is to have its own."""
    for target in service.files:
        if not {"instance", "port"} & placeholders((target,)):
            yield Problem(
                f"{path}.files.{key_text(target)}",
                "holds neither {instance} nor {port}, so all instances would share one file",
                'for example files = { "/run/portfleet/{instance}.conf" = "daemon.conf.in" }',
            )


def ports(fleet: Fleet) -> Iterator[Problem]:
    """Yield ranges of instances' ports that meet one another or what clients dial."""
    services = [service for service in fleet.services.values() if service.ports != (0, 0)]
    spans = [(service, key, *span) for service in services for key, span in service.ranges.items()]
    for index, (service, key, low, high) in enumerate(spans):
        path, width = f"service.{service.name}.{key}", high - low
        if high > 65535:
            words = f"{low} and the {width} ports after it end at {high}, above 65535"
            yield Problem(path, words, f"choose {65535 - width} or a lower port")
        for other, its, first, last in spans[:index]:
            if low <= last and first <= high:
                of = "ports" if its == "ports" else its
                yield Problem(
                    path,
                    f'"{low}-{high}" overlaps the {of} of service {other.name}, "{first}-{last}"',
                    f'for example "{last + 1}-{last + 1 + width}"' if key == "ports" else f"for example {last + 1}",
                )
        for other in fleet.services.values():
            for listen in other.listen:
                if low <= listen.port <= high:
                    yield Problem(
                        path,
                        f'"{low}-{high}" holds port {listen.port}, which service {other.name} listens on',
                        "keep listen ports out of instance ports",
                    )
