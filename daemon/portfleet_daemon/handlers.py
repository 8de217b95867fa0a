"""Handlers to try a fleet with."""

from __future__ import annotations

import os
from typing import Any

_WHO = "{} pid={} release={}".format(
    os.environ.get("PORTFLEET_INSTANCE") or "-", os.getpid(), os.environ.get("PORTFLEET_RELEASE") or "-"
).encode()


def echo(request: Any) -> Any:
    """Reply with the request."""
    return request


def whoami(request: Any) -> bytes:  # noqa: ARG001  a handler is given the request, needed or not
    """Reply `INSTANCE pid=PID release=RELEASE`, with `-` for what is not set."""
    return _WHO
