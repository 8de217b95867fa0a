"""asyncio's loop over a ServingSelector."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVarTuple

from portfleet_daemon.loop import ServingSelector

Ts = TypeVarTuple("Ts")


class ServingLoop(asyncio.SelectorEventLoop):
    """Tells its selector, which serves clients meanwhile, to return when there is something to call.

    `escaped` gets what a task or callback raised and asyncio lets through: SystemExit, KeyboardInterrupt. They end a
    program, and a handler's must not end the daemon; signals have handlers of their own here.
    """

    def __init__(self, selector: ServingSelector, *, escaped: Callable[[BaseException], None]) -> None:
        self.serving = selector
        self._escaped, self._stopped = escaped, False
        super().__init__(selector)

    def run_forever(self) -> None:
        self._stopped = False
        while not self._stopped:
            try:
                super().run_forever()
            except Exception:
                raise
            except BaseException as error:  # noqa: BLE001  what was to be called after it is called in the next round
                self._escaped(error)

    def stop(self) -> None:
        self._stopped = True
        super().stop()

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
