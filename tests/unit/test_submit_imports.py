"""What a command that begins an operation must not load: the watcher's side of it, and what `status` does without."""

from __future__ import annotations

import subprocess
import sys

import pytest

from portfleet.core.operations import VERBS

HEAVY = {
    "asyncio", "concurrent", "ctypes", "jinja2", "nftables", "subprocess", "portfleet.watch", "portfleet.operations",
    "portfleet.apply.execute", "portfleet.apply.programs", "portfleet.dataplane.nft",
}  # fmt: skip


@pytest.mark.parametrize("verb", [*VERBS, "pin", "unpin", "cancel", "history", "status"])
def test_a_command_loads_nothing_heavy_before_it_is_at_work(verb: str) -> None:
    script = (
        "import importlib, sys\n"
        "import portfleet.__main__\n"
        f"importlib.import_module('portfleet.commands.{verb}')\n"
        "import portfleet.apply.context\n"
        "print('\\n'.join(sys.modules))\n"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if any(name == one or name.startswith(f"{one}.") for one in HEAVY)] == []
