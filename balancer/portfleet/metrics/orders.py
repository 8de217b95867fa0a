"""The page's orders: forms that log in, ask what an order would do, and confirm it. Nothing here has a right.

What a browser sends is checked here as far as it is about browsers: its Origin, the size and type of a form, the token
of a form (CSRF). Who may order, and what, is for the watcher (`watch.desk`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from portfleet.core.errors import PortfleetError
from portfleet.metrics.ask import Entry, ask_order
from portfleet.metrics.look import look
from portfleet.metrics.page import ORDER_HEADERS, order_html

#: Where all of it is, and all that the cookie is sent to.
PATH = "/orders"
#: Bytes of a form, and its fields. A session ends sooner in the watcher.
_FORM, _FIELDS, _COOKIE_SECONDS = 4096, 8, 8 * 3600
#: HTTP's status for each kind of refusal.
_STATUS = {"session": 401, "token": 403, "order": 409}


class Orders:
    """The pages below `PATH`; ``socket`` is the watcher's."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    @property
    def routes(self) -> list[Route]:
        """GET shows, POST does."""
        posts = {"log-in": self._log_in, "log-out": self._log_out, "plan": self._plan, "confirm": self._confirm}
        return [
            Route(PATH, _answering(self._show)),
            *(Route(f"{PATH}/{name}", _posted(handler), methods=["POST"]) for name, handler in posts.items()),
        ]

    async def _show(self, request: Request) -> Response:
        held = request.cookies.get(_cookie(request), "")
        answer = await self._ask("session", request, session=held)
        if "kind" in answer:
            return _refusal(answer, log_in=True) if answer["kind"] != "session" else _page("log_in", 200, error="")
        now = await run_in_threadpool(look, self._socket)  # not a shared one: it shows what was ordered a moment ago
        services = [one | {"instances": now.of(one["name"])} for one in now.services if not one["down"]]
        return _page("choose", 200, services=services, trouble=now.trouble, form_token=_form_token(held))

    async def _log_in(self, request: Request, form: dict[str, str]) -> Response:
        answer = await self._ask("log-in", request, token=form.get("token", "").strip())
        if "kind" in answer:
            return _page("log_in", _STATUS[answer["kind"]], error=answer["error"])
        response = RedirectResponse(PATH, 303, headers=ORDER_HEADERS)
        secure = request.headers["origin"].startswith("https:")
        response.set_cookie(
            _cookie(request), answer["session"], max_age=_COOKIE_SECONDS, path=PATH, secure=secure, httponly=True,
            samesite="strict",
        )  # fmt: skip
        return response

    async def _log_out(self, request: Request, form: dict[str, str]) -> Response:
        await self._ask("log-out", request, session=_held(request, form))
        response = RedirectResponse(PATH, 303, headers=ORDER_HEADERS)
        response.delete_cookie(_cookie(request), path=PATH, httponly=True, samesite="strict")
        return response

    async def _plan(self, request: Request, form: dict[str, str]) -> Response:
        held = _held(request, form)
        verb, target = form.get("verb", ""), form.get("target", "")
        answer = await self._ask("order", request, session=held, verb=verb, target=target)
        return _refusal(answer) if "kind" in answer else _page("plan", 200, **answer, form_token=_form_token(held))

    async def _confirm(self, request: Request, form: dict[str, str]) -> Response:
        answer = await self._ask("confirm", request, session=_held(request, form), ticket=form.get("ticket", ""))
        return _refusal(answer) if "kind" in answer else _page("outcome", 200 if answer["done"] else 409, **answer)

    async def _ask(self, command: str, request: Request, **values: str) -> Entry:
        address = request.client.host if request.client else ""
        asked = {"command": f"page-{command}", "address": address, **values}
        return await run_in_threadpool(ask_order, self._socket, asked)


class _Refused(Exception):
    """What a browser sent is not taken, with HTTP's status and in words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


Endpoint = Callable[[Request], Awaitable[Response]]


def _answering(endpoint: Endpoint) -> Endpoint:
    """Return ``endpoint`` with pages for what is refused."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except _Refused as error:
            return _page("refused", error.status, error=error.words, hint="")
        except PortfleetError as error:
            return _page("refused", 503, error=error.message, hint=error.hint)

    return answer


def _posted(handler: Callable[[Request, dict[str, str]], Awaitable[Response]]) -> Endpoint:
    """Return an endpoint that takes a form if a page of this server sent it."""

    async def endpoint(request: Request) -> Response:
        if urlsplit(request.headers.get("origin", "")).netloc != request.headers.get("host"):
            raise _Refused(403, "this form was not sent by this page")
        return await handler(request, await _form(request))

    return _answering(endpoint)


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a small form; raise _Refused for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise _Refused(415, "this is no form")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _FORM:
            raise _Refused(413, "this form is too long")
    try:
        return dict(parse_qsl(data.decode("ascii"), strict_parsing=True, max_num_fields=_FIELDS))
    except ValueError:
        raise _Refused(400, "this is no form") from None


def _held(request: Request, form: dict[str, str]) -> str:
    """Return the session of a browser whose form was made for it; raise _Refused for another form."""
    held = request.cookies.get(_cookie(request), "")
    if not hmac.compare_digest(form.get("form_token", "").encode(), _form_token(held).encode()):
        raise _Refused(403, "this form belongs to another session")
    return held


def _form_token(held: str) -> str:
    """Return what each form of a session carries, and no other site can know."""
    return hmac.digest(held.encode(errors="replace"), b"form", hashlib.sha256).hex()


def _cookie(request: Request) -> str:
    """Return the cookie's name, with the port: browsers send cookies of one port of a host to all others."""
    return f"portfleet-{request.url.port or 80}"


def _refusal(answer: Entry, *, log_in: bool = False) -> Response:
    if answer["kind"] == "session" and not log_in:
        return _page("log_in", 401, error="this session has ended")
    return _page("refused", _STATUS[answer["kind"]], error=answer["error"], hint=answer["hint"])


def _page(name: str, status: int, **known: object) -> Response:
    return HTMLResponse(order_html(name, **known), status, ORDER_HEADERS)
