"""What a command that begins an operation must not load: the watcher's side of it, and what `status` does without."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest

from portfleet.core.operations import VERBS

HEAVY = {
    "asyncio", "concurrent", "ctypes", "jinja2", "nftables", "subprocess", "portfleet.watch", "portfleet.operations",
    "portfleet.apply.execute", "portfleet.apply.programs", "portfleet.dataplane.nft",
}  # fmt: skip


#: Verbs besides its own whose operations a command asks about.
ASKS_ABOUT = {"undrain": {"drain"}}
#: Operations by their own command: `migrate --live` is one of migrate's.
OWN = [verb for verb in VERBS if verb != "migrate-live"]


@pytest.mark.parametrize("verb", [*OWN, "pin", "unpin", "cancel", "history", "status"])
def test_a_command_loads_nothing_heavy_before_it_is_at_work(verb: str) -> None:
    loaded = loaded_by(verb)
    assert [name for name in loaded if any(name == one or name.startswith(f"{one}.") for one in HEAVY)] == []


@pytest.mark.parametrize("verb", [*OWN, "pin", "unpin", "cancel", "history", "status"])
def test_a_command_makes_the_dataclasses_of_its_own_verb_alone(verb: str) -> None:
    package = "portfleet.core.work."
    made = {name.removeprefix(package) for name in loaded_by(verb) if name.startswith(package)}
    own = {VERBS[verb][0]} if verb in VERBS else set()
    assert made == own | ASKS_ABOUT.get(verb, set())


def test_status_makes_no_operation_where_none_runs() -> None:
    assert "portfleet.core.operations" not in loaded_by("status")


def test_status_loads_no_library_for_what_it_does_not_show() -> None:
    script = (
        "import sys\n"
        "from portfleet.__main__ import parse\n"
        "parse(['status'])\n"
        "import portfleet.apply.context, portfleet.dataplane.nft.plane\n"
        "print('\\n'.join(sys.modules))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"portfleet.commands.status", "portfleet.dataplane.nft.connections"} <= set(found)
    assert {"bz2", "calendar", "shutil", "textwrap", "portfleet.dataplane.nft.conntrack"} & set(found) == set()


@cache
def loaded_by(verb: str) -> tuple[str, ...]:
    """Return the modules that are loaded when ``verb`` begins its work."""
    script = (
        "import importlib, sys\n"
        "import portfleet.__main__\n"
        f"importlib.import_module('portfleet.commands.{verb}')\n"
        "import portfleet.apply.context\n"
        "print('\\n'.join(sys.modules))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return tuple(found.stdout.split())
