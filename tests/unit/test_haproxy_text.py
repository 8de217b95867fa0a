"""What HAProxy gets for each kind of service, word for word: its own configuration, the service's, and the maps.

After a wanted change: GOLDEN=write pytest tests/unit/test_haproxy_text.py, and read the diff.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from portfleet.dataplane.haproxy import text
from portfleet.dataplane.haproxy.text import Place
from support.golden import compare
from support.haproxy_cases import CASES, state_of


@pytest.mark.parametrize("name", CASES)
def test_the_files_are_as_they_were_read_and_agreed_to(name: str, directory: Path) -> None:
    state, place = state_of(name, directory), Place(Path("/run/pf"), CASES[name][1])
    found = f"==> haproxy-1.cfg\n{text.process_text(state, place, 1)}"
    for number in place.numbers[1:]:
        own = set(text.process_text(state, place, number).splitlines()) - set(found.splitlines())
        found += f"==> haproxy-{number}.cfg has instead\n" + "".join(f"{line}\n" for line in sorted(own))
    for service, unit in state.units.items():
        found += f"==> services/{service}.cfg\n{text.service_text(service, unit, place)}"
        for kind, entries in text.maps(unit, place).items():
            whole = kind != "slots"
            found += f"==> services/{service}.{kind}\n{text.map_text(entries) if whole else _counts(entries)}"
    compare(f"haproxy/{name}.txt", found)


def _counts(slots: dict[str, str]) -> str:
    return "".join(f"({count} slots) {name}\n" for name, count in sorted(Counter(slots.values()).items()))
