"""The directories of one fleet."""

from __future__ import annotations

from portfleet.core.errors import PortfleetError
from portfleet.core.paths import Paths


def make_directories(paths: Paths) -> None:
    """Make the directories that are missing; raise PortfleetError if that is not allowed."""
    try:
        for directory in (paths.lib, paths.programs, paths.run, paths.log):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise PortfleetError(
            f"cannot make {error.filename}: {error.strerror}",
            hint="run as root, or give a directory of your own with --home DIR",
        ) from None
