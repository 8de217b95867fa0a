"""What this box tells another of its services, for `export`, `import` and `doctor --peer`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from portfleet.apply.context import Context
from portfleet.core.errors import PortfleetError
from portfleet.core.exported import Exported, exported, from_json
from portfleet.linux import other_box


def own(context: Context, names: Sequence[str] = ()) -> Exported:
    """Return the services ``names`` (none: all) as they are here; raise PortfleetError for one that there is not."""
    fleet = context.applied_fleet
    journal = context.desired(fleet).journal
    for name in names:
        context.service(fleet, name)
    return exported(fleet, journal, {name: context.plane.read_slots(name) for name in names or sorted(fleet.services)})


def read(source: str) -> Exported:
    """Return what the file ``source`` says ("-": stdin); raise PortfleetError."""
    try:
        with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as file:
            data = file.read(other_box.MOST + 1)
    except OSError as error:
        raise PortfleetError(f"cannot read {source}: {error.strerror}", hint="portfleet export > FILE") from None
    if len(data) > other_box.MOST:
        raise PortfleetError(
            f"cannot read {source}: more than {other_box.MOST:,} bytes", hint="portfleet export > FILE"
        )
    return from_json(data, source="stdin" if source == "-" else source)


def of_peer(peer: str) -> Exported:
    """Return what a peer says: a file that exists or has a slash in its name, otherwise a box that is asked."""
    if os.sep in peer or Path(peer).exists():
        return read(peer)
    return from_json(other_box.run(peer, ["portfleet", "export"]), source=peer)
