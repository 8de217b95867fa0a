"""asyncio's loop over a ServingSelector."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVarTuple

from portfleet_daemon.loop import ServingSelector

Ts = TypeVarTuple("Ts")


class ServingLoop(asyncio.SelectorEventLoop):
    """Tells its selector, which serves clients meanwhile, to return when there is something to call."""

    def __init__(self, selector: ServingSelector) -> None:
        self.serving = selector
        super().__init__(selector)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        self.serving.interrupted = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        self.serving.interrupted = True
        return super().call_at(when, callback, *args, context=context)
