"""The directories of one fleet, and who may look into them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from portfleet.core.errors import PortfleetError
from portfleet.core.paths import Paths

#: run/ lets others pass, not look: a daemon of another user makes its control socket in a directory below it.
_PASSED = 0o711
#: What only the owner has a business in: flock(2) needs no more than a file that can be opened.
_OWN_DIRECTORY, _OWN_FILE = 0o700, 0o600


def make_directories(paths: Paths) -> None:
    """Make the directories that are missing and take from others what is not meant for them below lib/ and run/.

    Raise PortfleetError if that is not allowed.
    """
    try:
        for directory, mode in (
            (paths.lib, _OWN_DIRECTORY), (paths.programs, _OWN_DIRECTORY), (paths.run, _PASSED), (paths.log, 0o755),
        ):  # fmt: skip
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
        for path, mode in _modes(paths):
            _restrict(path, mode)
    except OSError as error:
        raise PortfleetError(
            f"cannot make {error.filename}: {error.strerror}",
            hint="run as root, or give a directory of your own with --home DIR",
        ) from None


def _modes(paths: Paths) -> Iterator[tuple[Path, int]]:
    """Return what lies below lib/ and run/ with the most that its mode may allow, directories first.

    Directories in run/ are left alone: each belongs to the user of the instances whose sockets are in it.
    """
    yield from ((paths.run, _PASSED), (paths.lib, _OWN_DIRECTORY), (paths.programs, _OWN_DIRECTORY))
    for directory in (paths.run, paths.lib, paths.programs):
        with os.scandir(directory) as entries:
            files = [Path(entry) for entry in entries if entry.is_file(follow_symlinks=False)]
        yield from ((path, _OWN_FILE) for path in files)


def _restrict(path: Path, mode: int) -> None:
    """Take from ``path`` every right that ``mode`` has not."""
    try:
        now = stat.S_IMODE(path.stat(follow_symlinks=False).st_mode)
        if now & ~mode:
            path.chmod(now & mode)
    except FileNotFoundError:
        pass  # another process has replaced it meanwhile
