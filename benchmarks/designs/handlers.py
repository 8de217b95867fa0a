"""The task of the designs for fleets of Python: echo, and 50 ms that block for a line that begins with `e`."""

import time

SLOW = 0.05


def echo(request: bytes) -> bytes:
    """Return the request, after a while if it is a slow one."""
    if request[:1] == b"e":
        time.sleep(SLOW)
    return request
