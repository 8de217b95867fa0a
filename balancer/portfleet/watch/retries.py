"""Who is in a crash loop and when each is started again, written down for `status`."""

from __future__ import annotations

import time
from collections.abc import Container
from contextlib import suppress

from portfleet.core.observed import Retry
from portfleet.core.paths import Paths
from portfleet.store import retries
from portfleet.store.clock import stamp


class Retries:
    """The crash loops by instance, in ``known``."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self.known: dict[str, Retry] = {}

    def wait(self, name: str, reason: str, *, attempt: int = 0, seconds: float | None = None) -> None:
        """Note that ``name`` is started again in so many seconds; None: not before an operator asks."""
        self.known[name] = Retry(reason, None if seconds is None else stamp(time.time() + seconds), attempt)
        self.write()

    def keep(self, names: Container[str]) -> None:
        """Forget all but ``names``."""
        kept = {name: retry for name, retry in self.known.items() if name in names}
        if kept != self.known:
            self.known = kept
            self.write()

    def write(self) -> None:
        """Write them down; a full disk costs what `status` says of them, nothing else."""
        with suppress(OSError):
            retries.write(self._paths.retries, self.known)
