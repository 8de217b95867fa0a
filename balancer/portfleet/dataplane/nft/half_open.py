"""Forgets connections that were begun with an instance that is out: their next SYN is translated afresh."""

from __future__ import annotations

from portfleet.core.errors import PortfleetError
from portfleet.dataplane.nft.conntrack import forget_half_open
from portfleet.store.log import Log


class HalfOpen:
    """Deletes conntrack entries that saw no reply; its methods may run in any thread."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def forget(self, mark: int) -> None:
        """Delete the entries with ``mark`` that saw no reply. What was refused is logged."""
        try:
            count = forget_half_open(mark)
        except PortfleetError as error:
            self._log.once("cannot-forget-half-open", mark=mark, reason=error.message)
            return
        if count:
            self._log("forgot-half-open", mark=mark, count=count, reason="their next SYN goes elsewhere")
