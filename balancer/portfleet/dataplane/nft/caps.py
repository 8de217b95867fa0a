"""Keeps a flood of half-open connections from shutting an instance whose limit the kernel keeps.

The kernel counts an instance's entries in conntrack, half-open ones too, so that nothing beyond the limit gets in if no
watcher runs. A few hundred forged SYNs fill that count. The first packet over the limit spends the quota ``full``, of
which the kernel tells; the connections that are established are then counted by the sockets, and an instance that has
fewer than its limit is opened for some seconds (``open``), again and again for as long as packets come over the limit.
Between two counts more may get in than the limit says: as many as connect in that time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from portfleet.core.errors import Exit, PortfleetError
from portfleet.dataplane.interface import Done
from portfleet.dataplane.nft.book import TABLE, handle, service_of_instance
from portfleet.dataplane.nft.lookup import Lookup
from portfleet.dataplane.nft.restorer import arm
from portfleet.linux import sockdiag
from portfleet.linux.netlink import Netfilter

#: Seconds for which an instance stays open without another count.
_OPEN = 3


class Caps:
    """Opens instances that only seem full; ``lookup`` knows their rules, ``run`` carries out a transaction."""

    def __init__(self, lookup: Lookup, run: Callable[[str], None]) -> None:
        self._lookup, self._run = lookup, run
        self._opened: frozenset[str] = frozenset()

    def ease(self) -> Done | None:
        """Count if one seemed full since the last count; None if none is opened anew.

        Raise PortfleetError if the kernel refuses.
        """
        try:
            with Netfilter() as netfilter:
                if not arm(netfilter, "full"):
                    return None
            counts = sockdiag.established()
        except OSError as error:
            hint = "run as root, or give the program CAP_NET_ADMIN" if error.errno == errno.EPERM else ""
            words = f"cannot count the connections of full instances: {os.strerror(error.errno or 0)}"
            raise PortfleetError(words, hint=hint or "modprobe tcp_diag", code=Exit.KERNEL) from None
        rules = [rule for rule in self._lookup.limited() if counts[rule.port] < rule.limit]
        lines = [f"flush set {TABLE} open"]
        for rule in rules:
            lines.append(f"add element {TABLE} open {{ {rule.port} timeout {_OPEN}s }}")
            if rule.spills:  # what is added can be deleted, whether it had been there or not
                full = f"{TABLE} full-{service_of_instance(rule.name)} {{ {handle(rule.number)}"
                lines += [f"add element {full} timeout {_OPEN}s }}", f"delete element {full} }}"]
        self._run("\n".join(lines) + "\n")
        before, self._opened = self._opened, frozenset(rule.name for rule in rules)
        if self._opened <= before:
            return None
        established = {rule.name: f"{counts[rule.port]}/{rule.limit}" for rule in rules}
        return Done("not-full", {"established": established, "reason": "the kernel counts half-open connections too"})
