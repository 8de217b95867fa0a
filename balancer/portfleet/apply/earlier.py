"""The configs that were applied before the present one, kept for `apply --undo`; the newest is the one to return to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.paths import Paths
from portfleet.store import atomic

#: How many are kept.
_KEPT = 10


@dataclass(frozen=True)
class Earlier:
    """Keeps and finds them. Methods raise OSError for what cannot be written."""

    paths: Paths

    def keep(self, text: bytes) -> None:
        """Keep a config that is about to be replaced."""
        self.paths.earlier.mkdir(mode=0o700, exist_ok=True)
        atomic.write(self.paths.earlier / f"{time.time_ns():020}.toml", text)
        for path in self._files()[:-_KEPT]:
            path.unlink(missing_ok=True)

    def newest(self) -> Path | None:
        """Return the file of the config that was replaced last and has not been returned to."""
        found = self._files()
        return found[-1] if found else None

    def _files(self) -> list[Path]:
        return sorted(self.paths.earlier.glob("*.toml"))
