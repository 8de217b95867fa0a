"""What the connections of a process share: the framing, the handler and its failures, the counters, the time-outs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from portfleet_daemon.failures import Failures
from portfleet_daemon.framing import Framing
from portfleet_daemon.handler import Handler, Reply
from portfleet_daemon.loop import READ_SIZE, ServingSelector
from portfleet_daemon.stats import Stats
from portfleet_daemon.timeouts import Timeouts


class Service:
    """How a request becomes a reply, for every connection alike; `clock` gives seconds."""

    def __init__(
        self,
        *,
        selector: ServingSelector,
        framing: Framing,
        handler: Handler,
        stats: Stats,
        timeouts: Timeouts,
        clock: Callable[[], float],
    ) -> None:
        self.selector, self.framing, self.handler, self.stats = selector, framing, handler, stats
        self.timeouts, self.clock = timeouts, clock
        self.max_request = framing.max_request
        self.read_size = min(READ_SIZE, self.max_request)  # so the fast path cannot meet a request over the limit
        self.respond = handler.respond or (lambda _: None)
        self.request = handler.object.request if handler.stateful else (lambda *_: None)
        # Whether requests of one read may be answered in one pass; a framing of one's own may find one at a time only.
        self.one_pass = framing.one_pass(self.respond)
        self.pipelined = handler.respond is not None and type(framing).split_all is not Framing.split_all
        self._failures = Failures(stats)
        self.escaped = self._failures.escaped

    def start(self, answer: Awaitable[Any]) -> asyncio.Future[Any]:
        """Return the answer as a future that may be cancelled; a coroutine begins at once if Python can (3.12).

        A future that a handler made may be the answer to several requests, so a client that leaves must not cancel it.
        """
        if isinstance(answer, Reply):
            return answer
        if isinstance(answer, asyncio.Future):
            return asyncio.shield(answer)
        if sys.version_info >= (3, 12) and asyncio.iscoroutine(answer):
            return asyncio.Task(answer, loop=asyncio.get_running_loop(), eager_start=True)
        return asyncio.ensure_future(answer)

    def handler_failed(self, error: BaseException) -> bytes | None:
        """Log and count `error`; return the framing's error reply, if it has one."""
        self._failures.note(error)
        return self.error_reply("internal error")

    def error_reply(self, message: str) -> bytes | None:
        """Return the framing's error reply, if it has one and can make it."""
        try:
            reply = self.framing.error(message)
            return None if reply is None else b"" + reply  # a TypeError for what is no bytes
        except BaseException as error:  # noqa: BLE001  whatever a framing raises must hurt only its connection
            self._failures.note(error)
            return None
