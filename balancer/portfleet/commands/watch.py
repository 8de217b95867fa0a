"""Keep what is equal to what is wanted: eject the dead and the hung, let them in again, heal the rules.

Run by supervisord as the program portfleet-watch; only one runs per home. Its own end changes nothing for clients.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import os
from typing import IO

from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.program import WATCHER
from portfleet.store.directories import make_directories
from portfleet.store.log import Log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json-logs", action="store_true", help="log JSON instead of key=value (also: PORTFLEET_JSON_LOGS=1)"
    )
    words = "where a watcher runs already, wait for its end and take over, instead of refusing (exit 5)"
    parser.add_argument("--wait", action="store_true", help=words)


def run(options: argparse.Namespace, context: Context) -> Exit:
    gc.enable()  # unlike other verbs this one lives for months
    make_directories(context.paths)
    as_json = options.json_logs or os.environ.get("PORTFLEET_JSON_LOGS") == "1"
    log = Log(as_json=as_json, fallback=context.paths.log_of(WATCHER))
    with context.paths.watch_lock.open("a+") as lock:
        _take(lock, context, log, wait=options.wait)
        asyncio.run(_watch(context, log))
    return Exit.DONE


def _take(lock: IO[str], context: Context, log: Log, *, wait: bool) -> None:
    """Take the watcher's lock; raises PortfleetError (exit 5) where another has it and ``wait`` is not asked for."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise PortfleetError(
                f"a watcher is already running for {context.paths.run}",
                hint="supervisord runs it; see: portfleet logs portfleet-watch",
                code=Exit.LOCKED,
            ) from None
        # Ending instead would have supervisord try three times and give up, and the fleet be without a watcher later.
        log("waiting", reason="another watcher runs; this one takes over when that one ends")
        fcntl.flock(lock, fcntl.LOCK_EX)


async def _watch(context: Context, log: Log) -> None:
    from portfleet.apply.applied import Applied
    from portfleet.operations.daemons import MachineDaemons
    from portfleet.operations.engine import Engine
    from portfleet.operations.world import World
    from portfleet.watch.ejector import Ejector
    from portfleet.watch.forget import Forgetter
    from portfleet.watch.healer import Healer
    from portfleet.watch.overflow_order import OverflowOrder
    from portfleet.watch.roster import Roster
    from portfleet.watch.rule_guard import RuleGuard
    from portfleet.watch.server import serve
    from portfleet.watch.watcher import Watcher

    paths, plane, applied = context.paths, context.plane, Applied(context)
    guardian = plane.guardian()
    if lacking := guardian.shortage:
        log("unprivileged", refused=lacking.refused, costs=lacking.costs)
    roster, forgetter = Roster(paths, applied), Forgetter(plane.connections, log)
    ejector = Ejector(plane=plane, paths=paths, latest=roster.latest, forget_unanswered=forgetter.begin, log=log)
    healer = Healer(plane=plane, paths=paths, roster=roster, ejector=ejector, log=log)
    rules = RuleGuard(roster=roster, healer=healer, guardian=guardian, log=log)
    watcher = Watcher(context, log, ejector=ejector, roster=roster)
    server = await serve(paths.watch_socket, {"status": lambda _: watcher.status(), "reload": lambda _: watcher.wake()})
    own = Context(paths).plane
    world = World(
        paths=paths, store=context.store, applied=applied, plane=own, supervisor=context.supervisor,
        daemons=MachineDaemons(context.supervisor, paths, own.connections), ejector=ejector, log=log, wake=watcher.wake,
    )  # fmt: skip
    engine = asyncio.create_task(Engine(world).run())
    overflow = asyncio.create_task(OverflowOrder(plane=plane, paths=paths, roster=roster, log=log).run())
    try:
        await watcher.run(rules)
    finally:
        engine.cancel()
        overflow.cancel()
        server.close()
        rules.close()
    log("stopped", reason="asked to")
