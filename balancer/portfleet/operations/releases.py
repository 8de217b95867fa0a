"""Which releases are kept: the newest ``keep_releases`` that were live, and those that both colours run."""

from __future__ import annotations

from pathlib import Path

from portfleet.core.desired import DesiredService
from portfleet.core.journal import Journal
from portfleet.core.program import release_path


def outlived(journal: Journal, want: DesiredService) -> list[str]:
    """Name the releases (paths that exist) of a service that are older than those kept; they can be removed."""
    found = [release_path(want.service, name) for name in older(journal, want.name, want.service.keep_releases)]
    return [path for path in found if path.startswith("/") and Path(path).exists()]


def older(journal: Journal, service: str, keep: int) -> list[str]:
    """Return the releases of a service that were live once and are not among the ``keep`` newest, oldest last."""
    record = journal.services[service]
    runs = [colour.release for name, colour in record.colours.items() if name == record.live]
    runs += [colour.release for name, colour in record.colours.items() if name != record.live]
    lived = [entry.release for entry in reversed(journal.history) if entry.service == service]
    newest_first = dict.fromkeys(release for release in [*runs, *lived] if release)
    return list(newest_first)[max(keep, len(set(filter(None, runs)))) :]
