"""The nft command, asked for what others have set too; without it, or without the right to ask, there is nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any


def nft(*arguments: str) -> str:
    """Return what `nft ARGUMENTS` prints."""
    if not shutil.which("nft"):
        return ""
    return subprocess.run(["nft", *arguments], capture_output=True, text=True, check=False).stdout


def listed(kind: str, *what: str) -> Iterator[dict[str, Any]]:
    """Return the objects of ``kind`` (chain, map) that `nft --json list WHAT` prints."""
    try:
        entries = json.loads(nft("--json", "list", *what) or "{}").get("nftables", [])
    except ValueError:
        return
    yield from (entry[kind] for entry in entries if kind in entry)
