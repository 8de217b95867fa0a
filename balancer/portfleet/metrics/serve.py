"""Serves /metrics and the page: an ASGI application and the socket that it listens on."""

from __future__ import annotations

import asyncio
import gc
import gzip
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from portfleet.core.errors import PortfleetError
from portfleet.core.model import Listen
from portfleet.core.paths import Paths
from portfleet.metrics.families import text
from portfleet.metrics.live import Live, shown
from portfleet.metrics.look import Looks
from portfleet.metrics.orders import Orders
from portfleet.metrics.page import FILES, HEADERS, asset, html
from portfleet.metrics.prompt import STREAM, Prompt

#: Connections at a time, and streams of the page among them; further ones get 503.
_AT_ONCE, _STREAMS = 200, 50


class OwnNames:
    """Answers only those who ask for this box by an address or its own name.

    Another site's page in an operator's browser could otherwise read all of this through a name of its own that
    leads to 127.0.0.1 (DNS rebinding).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _own(Request(scope).headers.get("host", "")):
            answer = PlainTextResponse("ask for this box by its address, localhost or its own name\n", 421)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


def application(looks: Looks, socket_path: Path) -> Starlette:
    """Return the application; ``looks`` are what it tells, ``socket_path`` is where the watcher gives events."""
    live = Live(looks, socket_path)

    async def metrics(_: Request) -> Response:
        look = await run_in_threadpool(looks.now)
        body = await run_in_threadpool(text, look)
        return Response(body, media_type=CONTENT_TYPE_PLAIN_0_0_4, background=BackgroundTask(live.scraped, look))

    async def page(request: Request) -> Response:
        view, events = live.view, [shown(event) for event in reversed(live.events)]
        body = await run_in_threadpool(lambda: html(view, events, socket.gethostname()).encode())
        headers = HEADERS | {"Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):  # nothing secret is in it, so its size tells nothing
            body = await run_in_threadpool(gzip.compress, body, 1)
            headers |= {"Content-Encoding": "gzip"}
        return HTMLResponse(body, headers=headers)

    async def stream(request: Request) -> Response:
        if live.viewers >= _STREAMS:
            return PlainTextResponse("too many pages are open\n", 503)
        return StreamingResponse(
            live.stream(request.query_params.get("since", "")), media_type="text/event-stream", headers=HEADERS
        )

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return PlainTextResponse("there is no such file\n", 404)
        return Response(asset(name), media_type=FILES[name], headers=HEADERS)

    @asynccontextmanager
    async def looking(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(live.run())
        try:
            yield
        finally:
            task.cancel()

    routes = [Route("/", page), Route("/metrics", metrics), Route(STREAM, stream)]
    routes += [*Orders(socket_path).routes, Route("/{name}", file)]
    return Starlette(routes=routes, middleware=[Middleware(OwnNames)], lifespan=looking)


def serve(listen: Listen, paths: Paths) -> None:
    """Serve until SIGTERM; raise PortfleetError if ``listen`` cannot be listened on."""
    gc.enable()  # unlike verbs this one stays
    with _bound(listen) as bound:
        application_ = application(Looks(paths.seen_socket), paths.seen_socket)
        server = uvicorn.Server(
            uvicorn.Config(
                application_, http=Prompt, log_level="warning", access_log=False, server_header=False,
                limit_concurrency=_AT_ONCE, timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        server.run(sockets=[bound])


def _bound(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if 6 in listen.families else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 4 not in listen.families)
    try:
        bound.bind((listen.address or ("::" if family == socket.AF_INET6 else "0.0.0.0"), listen.port))
    except OSError as error:
        bound.close()
        hint = "choose another address or port for [metrics] listen in fleet.toml, then: portfleet apply"
        raise PortfleetError(f"cannot listen on {listen}: {error.strerror}", hint=hint) from None
    return bound


def _own(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    name = name.strip("[]").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        mine = socket.gethostname().lower()
        return name in ("localhost", mine, mine.partition(".")[0]) or name.startswith(f"{mine}.")
    return True
