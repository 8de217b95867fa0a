"""A handler for portfleet-daemon that tells who answered, by which release, to what: `INSTANCE/RELEASE REQUEST`.

A release's name says what is wrong with it: `crash` ends at once, `hang` never answers, `slow` takes a minute to start,
`die` ends when a client asks, `errors` fails every tenth request, `lag` takes 20 ms for each. Others are fine.
"""

from __future__ import annotations

import itertools
import os
import sys
import time

_RELEASE = os.environ.get("PORTFLEET_RELEASE") or "-"
_FAULT = _RELEASE.rpartition("/")[2].partition("-")[0]
_NAME = f"{os.environ.get('PORTFLEET_INSTANCE', '-')}/{_RELEASE.rpartition('/')[2]} ".encode()
_requests = itertools.count(1)

if _FAULT == "crash":
    print("the new release has a bug", file=sys.stderr)
    sys.exit(3)
if _FAULT == "slow":
    time.sleep(60)


def told(request: bytes) -> bytes:
    """Reply the instance's name, its release and the request."""
    if _FAULT == "hang":
        time.sleep(3600)
    if _FAULT == "die" and bytes(request) != b"PING":  # which is a probe's
        os._exit(4)
    if _FAULT == "lag":
        time.sleep(0.02)
    if _FAULT == "errors" and next(_requests) % 10 == 0:
        raise ValueError("a bug of this release")
    return _NAME + bytes(request)
