"""Proof that programs can be started, before anything that is well is ended for them."""

from __future__ import annotations

from collections.abc import Iterable

from portfleet.core.paths import Paths
from portfleet.core.program import Program
from portfleet.linux.executable import Start, faults
from portfleet.supervise.start import search_path


def faults_of(programs: Iterable[Program], paths: Paths) -> dict[str, str]:
    """Return why programs could not be started, by name; those that can be are left out."""
    path = search_path(paths)
    starts = {
        program.name: Start(program.command[0], program.directory, program.user, program.environment.get("PATH", path))
        for program in programs
    }
    found = faults(starts.values())
    return {name: found[start] for name, start in starts.items() if start in found}
