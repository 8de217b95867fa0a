"""Orders that come by the page: who may give one, what it would do, and having it done.

The metrics' process has no right, and gets none here: it passes on what a browser brought. The token is read, sessions
are kept and plans are made by the watcher; an order is a command line of this program, run as an operator would.
Whoever takes over the metrics' process can therefore do no more than a browser could that logs in meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from portfleet.apply import secrets
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal
from portfleet.core.paths import Paths
from portfleet.store.journal import JournalStore
from portfleet.store.log import Log
from portfleet.watch.roster import Roster
from portfleet.watch.sessions import NoSession, Plan, Refused, Sessions, plain

Answer = dict[str, Any]
T = TypeVar("T")
#: The orders, and whether each is about one instance, SERVICE/INSTANCE, or about a SERVICE.
_VERBS = {"drain": True, "undrain": True, "cancel": False, "rollback": False}
#: Seconds that an answer waits for a command, which then goes on; and after which a command is killed.
_ANSWER, _COMMAND = 8.0, 60.0
#: Requests that wait for their turn; characters of what a command says that are shown.
_WAITING, _SAID = 8, 8000


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    errors: str


class Desk:
    """Takes the commands of `commands` from the metrics' process; each answers with ``ok`` and, if refused, why."""

    def __init__(self, *, paths: Paths, roster: Roster, log: Log) -> None:
        self._paths, self._roster, self._log = paths, roster, log
        self._sessions = Sessions()
        self._pool = ThreadPoolExecutor(2, "page")
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[Said]] = set()

    @property
    def commands(self) -> Mapping[str, Callable[[Answer], Awaitable[Answer]]]:
        """The commands by name."""
        found = {"log-in": self._log_in, "log-out": self._log_out, "session": self._session}
        found |= {"order": self._order, "confirm": self._confirm}
        return {f"page-{name}": _refusing(command) for name, command in found.items()}

    async def _log_in(self, request: Answer) -> Answer:
        token = await self._token()
        try:
            held = self._sessions.begin(_text(request, "token"), token=token, address=_text(request, "address"))
        except Refused as error:
            if error.first:  # of whoever goes on trying nothing more is told: events are kept by size
                self._log("page-refused", operator=_who(request), reason=error.message)
            raise
        self._log("page-login", operator=_who(request))
        return {"session": held}

    async def _log_out(self, request: Answer) -> Answer:
        self._sessions.end(_text(request, "session"))
        return {}

    async def _session(self, request: Answer) -> Answer:
        """Answer whether a browser is logged in."""
        self._sessions.of(_text(request, "session"), token=await self._token())
        return {}

    async def _order(self, request: Answer) -> Answer:
        """Answer what an order would do, with the ticket that confirms it if it would do anything."""
        session = self._sessions.of(_text(request, "session"), token=await self._token())
        words = self._words(_text(request, "verb"), _text(request, "target"))
        state = await self._in_pool(self._state, words)
        said = await self._wait(self._run("--json", *words, "--dry-run", who=_who(request)))
        plan = _plan(said)
        answer = {"order": " ".join(words), "text": plan or _both(said)}
        return answer | ({"ticket": self._sessions.offer(session, words, state)} if plan else {})

    async def _confirm(self, request: Answer) -> Answer:
        """Have done what was shown, unless the service has changed since; answer what came of it."""
        session = self._sessions.of(_text(request, "session"), token=await self._token())
        plan = self._sessions.take(session, _text(request, "ticket"))
        said = await self._wait(self._carry_out(plan, _who(request)))
        return {"order": " ".join(plan.words), "text": _both(said), "done": said.code == Exit.DONE}

    async def _token(self) -> bytes:
        """Return the token as it is in its file now; raise PortfleetError if there is none that counts."""
        path = self._roster.token_file
        if path is None:
            raise PortfleetError("the page is read-only", hint="set token_file in [page] of fleet.toml")
        try:
            found = await self._in_pool(secrets.token, path)
        except PortfleetError as error:
            self._log.once("page-token", reason=error.message)
            raise
        self._log.over("page-token")
        return found

    def _words(self, verb: str, target: str) -> tuple[str, ...]:
        """Return an order as words of a command line; raise PortfleetError if it is none of the four, or not here."""
        desired = self._roster.desired
        if verb not in _VERBS or desired is None:
            raise PortfleetError("there is no such order")
        services = desired.services.values()
        known = {want.name for want in services}
        if _VERBS[verb]:
            known = {f"{want.name}/{one.name}" for want in services for one in want.instances}
        if target not in known:
            raise PortfleetError("there is no such service or instance", hint="load the page anew")
        return verb, target

    def _state(self, words: tuple[str, ...]) -> Hashable:
        """Return what a plan for these words is made of: the service's record and the operation that runs on it.

        To cancel is about that operation alone, which changes the record itself as it goes on.
        """
        service = _service(words)
        journal = JournalStore(self._paths.journal).read() or Journal()
        running = journal.running(service)
        record = None if words[0] == "cancel" else journal.services.get(service)
        return repr((record, running and running.number))

    async def _wait(self, work: Coroutine[Any, Any, Said]) -> Said:
        """Return what a command said; raise PortfleetError if it has not ended in time, and goes on."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if not (await asyncio.wait([task], timeout=_ANSWER))[0]:
            raise PortfleetError(f"this takes longer than {_ANSWER:g} s and goes on", hint="see the events on the page")
        return task.result()

    async def _carry_out(self, plan: Plan, who: str) -> Said:
        order, service = " ".join(plan.words), _service(plan.words)
        said = await self._run(*plan.words, "--no-wait", who=who, state=plan.state)
        if said.code == Exit.DONE:
            self._log("page-order", operator=who, order=order, service=service)
        else:
            reason = why_refused(said.errors)
            self._log("page-order-failed", operator=who, order=order, service=service, code=said.code, reason=reason)
        return said

    async def _run(self, *words: str, who: str, state: Hashable = None) -> Said:
        """Run a command of ours when its turn comes, if the service is then as it was in ``state``."""
        if len(self._running) > _WAITING:
            return Said(Exit.LOCKED, "", "too many orders are under way; try again")
        home = ("--home", str(self._paths.home)) if self._paths.home else ()
        argv = (sys.executable, "-P", "-m", "portfleet", *home, "--config", str(self._paths.config), *words)
        async with self._turn:
            if state is not None and await self._in_pool(self._state, words) != state:
                return Said(
                    Exit.LOCKED, "", "the service has changed since this was shown; nothing was done: look again"
                )
            return await self._in_pool(_run, argv, who)

    async def _in_pool(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def _run(argv: tuple[str, ...], who: str) -> Said:
    """Run a command to its end; ``who`` asked for it. In a session of its own it outlives the watcher."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_COMMAND, cwd="/",
            env=os.environ | {"PORTFLEET_WHO": who.partition("@")[0]}, start_new_session=True, umask=0o022, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Said(Exit.FAILED, "", f"portfleet: {error}")
    return Said(done.returncode, done.stdout[:_SAID], done.stderr[:_SAID])


def _plan(said: Said) -> str:
    """Return what a dry run says that it would do; "" if it would do nothing, or was refused."""
    if said.code != Exit.DONE:
        return ""
    entry = json.loads(said.out)
    if not entry.get("dry_run"):
        return ""
    lines = [f"Would {entry['words']}."]
    if "slots_moved" in entry:
        lines.append(f"{entry['slots_moved']:,} of {entry['slots']:,} slots would move: only new connections follow.")
    return "\n".join([*lines, *_spoken(said.errors)])


def _both(said: Said) -> str:
    """Return all that a command said to people."""
    out = said.out
    if out.startswith("{"):
        entry = json.loads(out)
        out = str(entry.get("words") or entry.get("outcome") or "")
    return "\n".join(filter(None, (*_spoken(said.errors), out.strip())))


def why_refused(errors: str) -> str:
    """Return why a command was refused: the last that it says, before which it may have said what it would do."""
    lines = [line for line in errors.splitlines() if line.startswith("portfleet: ")] or errors.splitlines()
    return "".join(_spoken(lines[-1])) if lines else ""


def _spoken(errors: str) -> list[str]:
    """Return the lines of a command's standard error without its name, which is for terminals."""
    return [line.removeprefix("portfleet: ") for line in errors.strip().splitlines()]


def _refusing(command: Callable[[Answer], Awaitable[Answer]]) -> Callable[[Answer], Awaitable[Answer]]:
    """Return ``command`` with its refusals as answers, and the kind of each."""

    async def answer(request: Answer) -> Answer:
        try:
            return await command(request)
        except PortfleetError as error:
            kind = "session" if isinstance(error, NoSession) else "token" if isinstance(error, Refused) else "order"
            return {"ok": False, "error": error.message, "hint": error.hint, "kind": kind}

    return answer


def _service(words: tuple[str, ...]) -> str:
    """Return the service that an order is about."""
    return words[1].partition("/")[0]


def _text(request: Answer, key: str) -> str:
    value = request.get(key)
    return value if isinstance(value, str) else ""


def _who(request: Answer) -> str:
    """Return who asks, as events and the history name it: the page and the address of the browser."""
    return f"page {plain(_text(request, 'address'))}@{socket.gethostname()}"
