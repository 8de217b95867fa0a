"""The daemon: its parts put together, its commands, and the order of its end."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, assert_never

from portfleet_daemon import __version__
from portfleet_daemon.commands import Brief, Command, Drain, Evict, HandOff, Receive, Resume, Status
from portfleet_daemon.connections import Connections
from portfleet_daemon.control import ControlSocket, failure
from portfleet_daemon.drain import close_all, evict
from portfleet_daemon.errors import Busy, ConfigError, Refused
from portfleet_daemon.handler import Handler, load_framing, load_handler
from portfleet_daemon.handoff.receiver import Receiver
from portfleet_daemon.handoff.sender import Sender
from portfleet_daemon.handoff.wire import VERSIONS
from portfleet_daemon.lifecycle import Lifecycle, State, notify_systemd
from portfleet_daemon.listener import KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, Port
from portfleet_daemon.log import log
from portfleet_daemon.loop import ServingSelector
from portfleet_daemon.settings import Settings
from portfleet_daemon.stats import Stats
from portfleet_daemon.workers import Workers

RESERVED = 64  # descriptors for everything that is no connection
LAST_ANSWERS = 5.0  # seconds for a hand-off to end, and its last line to be read, once no connection is left
MOST_DESCRIPTORS = 1 << 20  # the tables have a byte per descriptor; a limit of "infinity" is not taken literally


class Server:
    """One daemon. `run` is its life."""

    def __init__(self, settings: Settings, *, selector: ServingSelector, stats: Stats, limit: int) -> None:
        self.settings = settings
        self.stats = stats
        self.framing = load_framing(settings.framing, max_request=settings.max_request)
        self.handler = load_handler(settings.handler, workers=settings.workers)
        self.workers = Workers(settings.handler, number=settings.workers) if settings.workers else None
        if self.workers is not None:
            self.handler = Handler(respond=self.workers.respond)
        self.lifecycle = Lifecycle(notify_systemd)
        self.connections = Connections(
            selector=selector,
            framing=self.framing,
            handler=self.handler,
            stats=stats,
            request_timeout=settings.request_timeout,
            idle_timeout=settings.idle_timeout,
            proxied=settings.proxy_protocol,
        )
        self.port = Port(
            hosts=settings.hosts,
            port=settings.port,
            backlog=settings.backlog,
            max_connections=settings.max_connections or limit - RESERVED,
            selector=selector,
            connections=self.connections,
        )
        self.control = (
            ControlSocket(settings.control, run=self.run_command, take=self.take) if settings.control else None
        )
        self._pacing: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._stopping = False
        self._receiver = Receiver(connections=self.connections, port=self.port)
        self._sender: asyncio.Task[None] | None = None
        self._told = asyncio.Event()  # the client that asked for the hand-off has its last line

    async def run(self) -> None:
        """Listen, serve, and return when stopped; raise OperatorError."""
        loop = asyncio.get_running_loop()
        self.connections.timeouts.start()
        try:
            if self.workers is not None:
                await self._start_workers(self.workers)
            self.port.open()
            if self.control is not None:
                self.control.open()
            loop.add_signal_handler(signal.SIGTERM, self._terminate)
            loop.add_signal_handler(signal.SIGINT, self._ended.set)
            gc.collect()
            gc.freeze()  # what is here now stays; the collector need not look at it again
            log("listening", port=self.port.number, pid=os.getpid(), instance=self.settings.instance)
            self.lifecycle.enter(State.READY)
            self.connections.selector.begin()
            await self._ended.wait()
        finally:
            self.port.close()
            if self.control is not None:
                await self.control.close()
            if self.workers is not None:
                await self.workers.close()
        log("stopped", connections=self.connections.count, requests=self.stats.requests)
        self.lifecycle.enter(State.STOPPED)

    async def _start_workers(self, workers: Workers) -> None:
        try:
            await workers.start()
        except TimeoutError as error:
            raise ConfigError("the workers do not start", hint="the log says why") from error

    def _terminate(self) -> None:
        if self._stopping:
            self._ended.set()  # asked twice: end at once
            return
        self._stopping = True
        if self.lifecycle.state is State.READY:
            self.lifecycle.enter(State.DRAINING)
        self._pace(self._stop())

    async def _stop(self) -> None:
        settings = self.settings
        try:
            await self._drain(rate=settings.drain_rate, deadline=settings.drain_deadline, close_listener=True)
            if self._sender is not None:
                last = asyncio.get_running_loop().create_task(self._told.wait())
                await asyncio.wait({self._sender, last}, timeout=LAST_ANSWERS)
        finally:  # whatever went wrong, the sender of SIGTERM waits for the end
            self._ended.set()

    def _pace(self, work: Coroutine[Any, Any, None] | None) -> None:
        if self._pacing is not None:
            self._pacing.cancel()
        self._pacing = asyncio.get_running_loop().create_task(work) if work else None
        if self._pacing is not None:
            self._pacing.add_done_callback(_tell_broken)

    async def _drain(self, *, rate: float | None, deadline: float | None, close_listener: bool) -> None:
        if close_listener:
            await self.port.quiet(self.port.sockets)
            self.port.close()
        try:
            async with asyncio.timeout(deadline):
                if rate is not None:
                    await evict(self.connections, rate=rate)
                await self._none_left()
        except TimeoutError:
            log("drain-deadline", connections=self.connections.count)
            await close_all(self.connections)

    async def _none_left(self) -> None:
        empty = asyncio.Event()
        self.connections.on_empty = empty.set
        if self.connections.count:
            await empty.wait()

    async def run_command(self, command: Command) -> AsyncIterator[dict[str, Any]]:
        """Do what the control socket asks and yield the answers; raise OperatorError."""
        match command:
            case Brief():
                yield self._short_status() | {"max_connections": self.port.max_connections}
            case Status():
                yield self.status()
            case Drain():
                self._check_not_stopping()
                self.lifecycle.enter(State.DRAINING)
                self._pace(
                    self._drain(rate=command.rate, deadline=command.deadline, close_listener=command.close_listener)
                )
                yield self._short_status()
            case Resume():
                self._check_not_stopping()
                if not self.port.sockets:
                    self.port.open()
                self._pace(None)  # after what may fail: an error leaves the drain as it was
                self.lifecycle.enter(State.READY)
                yield self._short_status()
            case Evict():
                self._check_not_stopping()
                self._pace(self._evict(command))
                yield self._short_status()
            case HandOff():
                async for answer in self._hand_off(command):
                    yield answer
            case Receive():
                raise AssertionError("receive has the socket to itself")
            case _:
                assert_never(command)

    async def take(self, command: Receive, sock: socket.socket) -> None:
        """Receive a hand-off over `sock`; raise Refused."""
        if self.lifecycle.state is not State.READY:
            raise Refused(f"state is {self.lifecycle.state.value}, not ready", hint="resume it, or name another")
        await self._receiver.run(command, sock)

    async def _hand_off(self, command: HandOff) -> AsyncIterator[dict[str, Any]]:
        if self._sender is not None and not self._sender.done():
            raise Busy("a hand-off is under way", hint="wait for its end")
        answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        # A task of its own: if the control socket's client goes away, half a hand-off must not be left.
        self._sender = asyncio.get_running_loop().create_task(self._send_off(command, answers.put_nowait))
        self._told = told = asyncio.Event()
        try:
            while True:
                answer = await answers.get()
                yield answer
                if answer.get("event") != "progress":
                    return
        finally:
            told.set()  # written by now, as the next answer was asked for

    async def _send_off(self, command: HandOff, report: Callable[[dict[str, Any]], None]) -> None:
        sender = Sender(
            command,
            connections=self.connections,
            port=self.port,
            instance=self.settings.instance,
            report=report,
        )
        log("handoff", to=command.to, connections=self.connections.count)
        try:
            await sender.run()
            last: dict[str, Any] = {"ok": True, "event": "done"}
        except Refused as error:
            last = failure(error)
        except Exception as error:  # noqa: BLE001  the client waits for a last line
            log("handoff-broken", traceback=traceback.format_exc())
            last = failure(Refused(f"hand-off to {command.to}: {error!r}", hint="the log has the traceback"))
        if sender.listeners_moved and self.lifecycle.state is State.READY:
            self.lifecycle.enter(State.DRAINING)
        if last["ok"]:
            log("handoff-done", to=command.to, **sender.numbers())
        else:
            log("handoff-failed", to=command.to, error=last["error"], **sender.numbers())
        report({**last, **sender.numbers()})

    async def _evict(self, command: Evict) -> None:
        done = await evict(self.connections, rate=command.rate, count=command.count)
        log("evicted", connections=done, remaining=self.connections.count)

    def _check_not_stopping(self) -> None:
        if self._stopping:
            raise Refused("the daemon is stopping", hint="it received SIGTERM; start another")

    def _short_status(self) -> dict[str, Any]:
        return {"ok": True, "state": self.lifecycle.state.value, "connections": self.connections.count}

    def status(self) -> dict[str, Any]:
        """Return the answer to `status`; times in microseconds."""
        stats = self.stats
        return {
            **self._short_status(),
            "pid": os.getpid(),
            "instance": self.settings.instance,
            "port": self.port.number,
            "accepted": stats.accepted,
            "requests": stats.requests,
            "bytes_in": stats.bytes_in,
            "bytes_out": stats.bytes_out,
            "errors": stats.errors,
            "latency": stats.latency(),
            "max_loop_lag_us": round(stats.max_lag * 1e6),
            "max_connections": self.port.max_connections,
            "keepalive_s": KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES,
            "handoff": list(VERSIONS) if self.handler.movable else [],
            "version": __version__,
        }


def _tell_broken(pacing: asyncio.Task[None]) -> None:
    if not pacing.cancelled() and (error := pacing.exception()) is not None:
        log("drain-broken", traceback="".join(traceback.format_exception(error)))


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, bounded; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
