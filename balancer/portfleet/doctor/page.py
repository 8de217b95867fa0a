"""Who may hear what is said to the page."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from portfleet.core.model import Fleet


def open_page(fleet: Fleet) -> Iterator[str]:
    """Return what to know of a page that takes orders where others of the network may listen."""
    listen = fleet.metrics.listen
    if fleet.page.token_file is None or listen is None:
        return
    if listen.address is None or not ipaddress.ip_address(listen.address).is_loopback:
        yield (
            f"page: token and orders travel in the clear to {listen}: "
            "listen on 127.0.0.1 behind a proxy with TLS, or come by ssh -L"
        )
