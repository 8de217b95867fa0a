"""Whether what instances were started from has changed since: a release of the same path with new content.

With each start it is noted in lib/programs/NAME.content what the release's folder and the executable are: by what the
kernel says of the files, and a digest of what is in them. An instance that ended and was started again by supervisord
alone runs what was there then: the time of its start tells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from portfleet.core.desired import DesiredService
from portfleet.core.model import Colour
from portfleet.core.observed import Observed
from portfleet.core.paths import Paths
from portfleet.core.printable import names
from portfleet.core.program import Program
from portfleet.core.value import value
from portfleet.linux import processes
from portfleet.linux.content import content_of, digest_of
from portfleet.linux.machine import find_command
from portfleet.store import atomic
from portfleet.store.clock import stamp


@value
class Changed:
    """``instances`` of a service run what ``place`` held before; ``newest`` changed there last, ``at`` (RFC 3339)."""

    service: str
    place: str
    newest: str
    at: str
    instances: tuple[str, ...]

    def words(self) -> str:
        """Return it in words, with the command that has the new content run."""
        what = "" if self.newest == self.place else f"{os.path.relpath(self.newest, self.place)}, "
        return (
            f"{self.place} has changed ({what}{self.at}) since {names(self.instances)} started: they run what it held "
            f"before. For the new content: portfleet cutover {self.service}"
        )


class _Noted(NamedTuple):
    """What files were when an instance was started: `Content.stamp` and `digest_of`."""

    stamp: str
    digest: str


def note(paths: Paths, programs: Iterable[Program]) -> None:
    """Note what instances are about to be started from; raise OSError."""
    known, placed = dict[tuple[str, ...], _Noted](), _Places()
    for program in (one for one in programs if one.values):  # the others are no instances
        if (places := placed.of(program)) not in known:
            known[places] = _note_of(places, _noted(paths, program.name))
        if _noted(paths, program.name) != known[places]:
            atomic.write(Path(_file(paths, program.name)), f"{known[places].stamp} {known[places].digest}".encode())


def changed(want: DesiredService, observed: Observed, paths: Paths, colour: Colour | None = None) -> Changed | None:
    """Return what has changed since instances of a colour, None: the live one, were started; None if nothing has."""
    began, placed = dict[tuple[str, ...], dict[str, _Noted]](), _Places()
    for instance in want.of(colour or want.live):
        noted = _noted(paths, instance.name)
        if instance.program is not None and observed.seen(instance.name).pid is not None and noted:
            began.setdefault(placed.of(instance.program), {})[instance.name] = noted
    for places, notes in began.items():
        if (now := content_of(places)) is None or all(was.stamp == now.stamp for was in notes.values()):
            continue
        digest = digest_of(places)
        others = [name for name, was in notes.items() if was.digest != digest]
        older = [name for name in others if _older(observed.seen(name).pid, now.at)]
        if older:
            holds = [place for place in places if now.newest == place or now.newest.startswith(f"{place}/")]
            return Changed(want.name, holds[0], now.newest, stamp(now.at), tuple(older))
    return None


def _older(pid: int | None, at: float) -> bool:
    """Return whether a process was there at the Unix time ``at``."""
    age = processes.age(pid) if pid is not None else None
    return age is not None and time.time() - age <= at


@dataclass
class _Places:
    """Finds what instances are started from, once for all that are started alike."""

    _found: dict[tuple[str, ...], str | None] = field(default_factory=dict)

    def of(self, program: Program) -> tuple[str, ...]:
        """Return an instance's release if that is a path, its executable, and that one's script.

        A script is the first argument that is no option. Files further on may be data, which change all the time.
        """
        release = program.values["release"].rstrip("/")
        found = [release] if release.startswith("/") else []
        script = next((word for word in program.command[1:] if not word.startswith("-")), "")
        for key in ((program.command[0],), (program.directory or "/", script)):
            if key not in self._found:
                # What would be the script is the port of most daemons, another one for each instance, and no file: a
                # Path of each would take half of all this.
                path = os.path.join(*key) if len(key) > 1 else find_command(key[0]) or "/"  # noqa: PTH118 (see above)
                there = os.path.isfile(path)  # noqa: PTH113 (see above)
                self._found[key] = os.path.realpath(path) if there else None
            file = self._found[key]
            if file is not None and file not in program.files and not file.startswith(f"{release}/"):
                found.append(file)
        return tuple(dict.fromkeys(found))


def _file(paths: Paths, name: str) -> str:
    return f"{paths.programs}/{name}.content"


def _noted(paths: Paths, name: str) -> _Noted | None:
    """Return what was noted at an instance's last start; None if nothing was, or its file is damaged."""
    try:
        stamp_then, digest = (atomic.read(_file(paths, name)) or b"").decode().split()
    except ValueError:
        return None
    return _Noted(stamp_then, digest)


def _note_of(places: tuple[str, ...], before: _Noted | None) -> _Noted:
    """Return what is to be noted of ``places`` now; what was noted ``before`` spares reading files that are as then."""
    if (now := content_of(places)) is None:
        return _Noted("-", "-")
    return before if before is not None and before.stamp == now.stamp else _Noted(now.stamp, digest_of(places))
