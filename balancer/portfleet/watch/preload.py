"""Loads all code before the first look: nothing that an ejection needs is read from disk in the middle of one.

The package and what it depends on may be replaced under the watcher at any moment (pip does so file by file), and a
module that is first imported then is missing, or is the other version's.
"""

from __future__ import annotations

import importlib
import pkgutil

import portfleet
from portfleet.store import templating

#: Verbs, which the watcher does not run, the program that runs them, and what another process does.
_LEFT_OUT = ("portfleet.commands", "portfleet.__main__", "portfleet.metrics")


def load_all() -> None:
    """Import every module of this package that the watcher may need, and read every template."""
    for module in pkgutil.walk_packages(portfleet.__path__, "portfleet."):
        if not module.name.startswith(_LEFT_OUT):
            importlib.import_module(module.name)
    templating.load_all()
