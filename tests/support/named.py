"""A handler for portfleet-daemon that tells who answered, and to what: `INSTANCE REQUEST`."""

from __future__ import annotations

import os

_NAME = os.environ.get("PORTFLEET_INSTANCE", "-").encode() + b" "


def named(request: bytes) -> bytes:
    """Reply the instance's name and the request."""
    return _NAME + bytes(request)
