"""What one config has otherwise than another, in words."""

from __future__ import annotations

from dataclasses import fields

from portfleet.core.model import Fleet, differing


def differences(before: Fleet, after: Fleet) -> list[str]:
    """Return what ``after`` changes in ``before``, a text for each service; none for comments and the like."""
    old, new = before.services, after.services
    words = [f"{name} is new" for name in new if name not in old]
    words += [f"{name} is not in it" for name in old if name not in new]
    for name in new:
        if name in old and (keys := differing(old[name], new[name])):
            words.append(f"{', '.join(keys)} of {name}")
    fleet = [key for key in ("drift", "dataplane", "haproxy_processes") if getattr(before, key) != getattr(after, key)]
    words += [f"fleet.{key}" for key in fleet]
    one, another = before.forward, after.forward
    boxes = [key.name for key in fields(one) if getattr(one, key.name) != getattr(another, key.name)]
    return [*words, *(f"forward.{key}" for key in boxes)]
