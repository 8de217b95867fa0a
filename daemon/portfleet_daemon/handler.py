"""Loads a handler by name and says what kind it is."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portfleet_daemon.errors import ConfigError
from portfleet_daemon.framing import FRAMINGS, Framing


class Reply(asyncio.Future[Any]):
    """The answer to one request and no other: cancelled when the client leaves."""


@dataclass(frozen=True)
class Handler:
    """A handler, adapted: `respond(request)` for a function, `object` for a class, which keeps state per connection."""

    respond: Callable[[Any], Any] | None
    object: Any = None

    @property
    def stateful(self) -> bool:
        """Return whether every connection is stateful."""
        return self.object is not None

    @property
    def movable(self) -> bool:
        """Return whether its connections can be handed off: there is no state, or a way to take it along."""
        return not self.stateful or hasattr(self.object, "export_state")


def load_attribute(name: str, flag: str) -> Any:
    """Import `module:attr`, the current directory first; raise ConfigError saying what is wrong."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{flag} {name!r} is not module:attr", hint=f"for example {flag} myapp:respond")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        hint = f"the current directory, {Path.cwd()}, and PYTHONPATH are searched"
        raise ConfigError(f"{flag} {name!r}: {type(error).__name__}: {error}", hint=hint) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{flag} {name!r}: {module_name} has no {attribute}", hint="the part after the colon")
        found = getattr(found, part)
    return found


def load_handler(name: str, *, workers: int) -> Handler:
    """Return the handler called `name`; raise ConfigError. With workers it must be a plain function."""
    found = load_attribute(name, "--handler")
    if inspect.isclass(found):
        if workers:
            raise ConfigError(f"--handler {name!r} is a class", hint="--workers takes a function of one argument")
        if not callable(getattr(found, "request", None)):
            raise ConfigError(f"--handler {name!r}: class without request(conn, data)", hint="see docs/daemon.md")
        if hasattr(found, "export_state") != hasattr(found, "import_state"):
            hint = "a hand-off needs both"
            raise ConfigError(f"--handler {name!r} has one of export_state and import_state", hint=hint)
        try:
            return Handler(respond=None, object=found())
        except Exception as error:
            raise ConfigError(f"--handler {name!r}: {type(error).__name__}: {error}", hint="in its __init__") from error
    if not callable(found):
        raise ConfigError(f"--handler {name!r} is a {type(found).__name__}", hint="a function or a class is needed")
    if workers and inspect.iscoroutinefunction(found):
        raise ConfigError(f"--handler {name!r} is async", hint="--workers is for blocking functions; leave it out")
    return Handler(respond=found)


def load_framing(name: str, *, max_request: int) -> Framing:
    """Return the framing called `name`, or `module:Class`; raise ConfigError."""
    if name in FRAMINGS:
        return FRAMINGS[name](max_request=max_request)
    if ":" not in name:
        hint = f"one of {', '.join(FRAMINGS)}, or module:Class"
        raise ConfigError(f"--framing {name!r} is unknown", hint=hint)
    found = load_attribute(name, "--framing")
    if not (inspect.isclass(found) and issubclass(found, Framing)):
        raise ConfigError(
            f"--framing {name!r} is no subclass of Framing", hint="from portfleet_daemon.framing import Framing"
        )
    try:
        framing: Framing = found(max_request=max_request)
    except Exception as error:
        hint = "split and reply are needed, see docs/daemon.md"
        raise ConfigError(f"--framing {name!r}: {type(error).__name__}: {error}", hint=hint) from error
    framing.name = name
    return framing
