"""What this box tells another of its services, for `export`, `import` and `doctor --peer`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
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
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is not text"
        raise PortfleetError(f"cannot read {source}: {words}", hint="portfleet export > FILE") from None
    return from_json(text, source="stdin" if source == "-" else source)


def of_peer(peer: str) -> Exported:
    """Return what a peer says: a file that exists or has a slash in its name, otherwise a box that is asked."""
    if os.sep in peer or Path(peer).exists():
        return read(peer)
    return from_json(other_box.run(peer, ["portfleet", "export"]), source=peer)
