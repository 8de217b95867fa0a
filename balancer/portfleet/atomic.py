"""Write a file so that a crash at any moment leaves either the old or the new content, never a part."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from portfleet import faults


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the content of ``path``: temporary file beside it, fsync, rename, fsync of the directory.

    Raises OSError; then ``path`` is as it was.
    """
    faults.point(f"before write {path.name}")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        faults.point(f"before rename {path.name}")
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    faults.point(f"after write {path.name}")
