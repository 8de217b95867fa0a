"""Clients, run as a program inside the clients' box: one JSON job on stdin, one JSON report on stdout.

    ask    {"to": [address, port], "sources": [...], "message": "x\\n", "lines": 1, "parallel": 200, "timeout": 5}
           one connection from each source (an address, or [address, port]);
           → [{"source", "port", "reply", "error", "seconds"}], in the order of the sources
    hold   {"to", "sources", "interval": 0.05, "connects": 200, "message": "who {id}\\n", "timeout": 5}
           one long-lived connection per source that sends a request every ``interval`` seconds, and ``connects`` new
           short connections per second beside it, until stdin ends or has an empty line; prints "up" when all are
           connected, and on a line "so far" {"lost": held connections that broke, "new": new ones that have ended,
           "fewest", "most": answers on a held connection};
           → {"held": [{"source", "port", "replies", "lost", "error", "seen", "slowest"}],
              "connects": {"done", "refused", "reset", "slowest"}}

"Refused" is ECONNREFUSED or no connection within ``timeout`` seconds; "reset" is a connection that was made and
then broke before its reply. Standard library only, so that any python3 runs it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

Job = dict[str, Any]


async def ask_one(job: Job, source: Any, message: str) -> dict[str, Any]:
    """Connect from ``source``, an address or [address, port], send ``message``, read the reply's lines, close."""
    report: dict[str, Any] = {"source": source, "reply": None, "error": None}
    local = tuple(source) if isinstance(source, list) else (source, 0) if source else None
    began = time.monotonic()
    try:
        async with asyncio.timeout(job.get("timeout", 5)):
            reader, writer = await asyncio.open_connection(*job["to"], local_addr=local)
    except ConnectionResetError as error:  # answered, then reset: the process died with it in its accept queue
        return report | {"error": f"reset: {error!r}", "seconds": time.monotonic() - began}
    except (OSError, TimeoutError) as error:
        return report | {"error": f"refused: {error!r}", "seconds": time.monotonic() - began}
    report["port"] = writer.get_extra_info("sockname")[1]
    try:
        async with asyncio.timeout(job.get("timeout", 5)):
            writer.write(message.encode())
            lines = [(await reader.readline()).decode().rstrip("\r\n") for _ in range(job.get("lines", 1))]
            report["reply"] = "\n".join(lines) or None
            report["error"] = None if report["reply"] else "reset: closed without a reply"
    except (OSError, TimeoutError) as error:
        report["error"] = f"reset: {error!r}"
    finally:
        writer.transport.abort() if report["error"] else writer.close()
    return report | {"seconds": time.monotonic() - began}


async def ask(job: Job) -> list[dict[str, Any]]:
    """Ask once from every source, ``parallel`` at a time."""
    gate = asyncio.Semaphore(job.get("parallel", 200))

    async def one(source: Any) -> dict[str, Any]:
        async with gate:
            return await ask_one(job, source, job["message"])

    return await asyncio.gather(*(one(source) for source in job["sources"]))


class Held:
    """One long-lived connection that asks and checks for ever."""

    def __init__(self, job: Job, source: str) -> None:
        self.job, self.source = job, source
        self.report: dict[str, Any] = {
            "source": source,
            "port": 0,
            "replies": 0,
            "lost": 0,
            "error": None,
            "seen": [],
            "slowest": 0.0,
        }

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(*self.job["to"], local_addr=(self.source, 0))
        self.report["port"] = self.writer.get_extra_info("sockname")[1]

    async def talk(self, stop: asyncio.Event) -> None:
        """Send requests until told to stop, and one more: its answer names who has the connection in the end."""
        number, report, last = 0, self.report, False
        try:
            while not last:
                last = stop.is_set()
                number += 1
                mark = f"{self.source}#{number}"
                began = time.monotonic()
                self.writer.write(self.job["message"].format(id=mark).encode())
                async with asyncio.timeout(self.job.get("timeout", 5)):
                    line = await self.reader.readline()
                if not line:
                    raise ConnectionError("closed by the server")
                reply = line.decode().strip()
                if "{id}" in self.job["message"] and not reply.endswith(mark):
                    raise ConnectionError(f"asked {mark}, got {reply!r}")
                report["replies"] += 1
                report["slowest"] = max(report["slowest"], time.monotonic() - began)
                who = reply.split(" ")[0]
                if not report["seen"] or report["seen"][-1] != who:
                    report["seen"].append(who)
                if not last:  # the pace of the load; nothing is waited for
                    await asyncio.sleep(self.job.get("interval", 0.05))
        except (OSError, TimeoutError) as error:
            report["lost"], report["error"] = 1, repr(error)
        finally:
            self.writer.close()


async def connects(job: Job, stop: asyncio.Event, total: dict[str, Any]) -> None:
    """Make ``connects`` short connections a second from many sources until told to stop; count them in ``total``."""
    running: set[asyncio.Task[None]] = set()
    sources: list[str] = job.get("from") or job["sources"]
    period, number, began = 1 / job["connects"], 0, time.monotonic()

    async def one(source: str, mark: str) -> None:
        got = await ask_one(job, source, job["message"].format(id=mark))
        kind = (got["error"] or "done").split(":")[0]
        total[kind] += 1
        total["slowest"] = max(total["slowest"], got["seconds"])
        if got["error"] and len(total["errors"]) < 20:
            total["errors"].append([source, got["error"]])

    while not stop.is_set():
        task = asyncio.create_task(one(sources[number % len(sources)], f"c{number}"))
        running.add(task)
        task.add_done_callback(running.discard)
        number += 1
        await asyncio.sleep(max(0, began + number * period - time.monotonic()))
    await asyncio.gather(*running)


async def hold(job: Job) -> dict[str, Any]:
    """Hold connections and make new ones until stdin ends."""
    stop = asyncio.Event()
    held = [Held(job, source) for source in job["sources"]]
    for some in range(0, len(held), 200):
        await asyncio.gather(*(one.connect() for one in held[some : some + 200]))
    talking = [asyncio.create_task(one.talk(stop)) for one in held]
    total: dict[str, Any] = {"done": 0, "refused": 0, "reset": 0, "slowest": 0.0, "errors": []}
    if job.get("connects"):
        talking.append(asyncio.create_task(connects(job, stop, total)))
    print("up", flush=True)
    while (await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)).strip() == "so far":
        lost, new = sum(one.report["lost"] for one in held), sum(total[how] for how in ("done", "refused", "reset"))
        replies = [one.report["replies"] for one in held]
        told = {"lost": lost, "new": new, "fewest": min(replies, default=0), "most": max(replies, default=0)}
        print(json.dumps(told), flush=True)
    stop.set()
    await asyncio.gather(*talking)
    return {"held": [one.report for one in held], "connects": total if job.get("connects") else None}


def main() -> int:
    """Do the job on stdin."""
    what = {"ask": ask, "hold": hold}[sys.argv[1]]
    print(json.dumps(asyncio.run(what(json.loads(sys.stdin.readline())))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
