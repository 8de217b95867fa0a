"""HTTP for clients that need not be friends: a connection that gets nowhere is ended, so that none keeps others out.

uvicorn itself waits for a request, and for an answer to be read, for ever.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds in which the next request must be complete and the last answer read. The watcher is waited for half as long.
SECONDS = 10.0
#: What goes on for as long as its reader likes.
STREAM = "/stream"


class Prompt(H11Protocol):
    """One connection, which is looked at every `SECONDS`."""

    _timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn narrows it too
        super().connection_made(transport)
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look_later(self) -> None:
        self._timer = self.loop.call_later(SECONDS, self._look, self.cycle)

    def _look(self, before: object) -> None:
        """End it if no request has begun since, but for a stream."""
        if self.cycle is before and not self._streams():
            self.transport.abort()
        else:
            self._look_later()

    def _streams(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and cycle.scope["path"] == STREAM
