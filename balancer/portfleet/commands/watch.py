"""Keep the fleet as desired: eject dead and hung instances, re-admit them, repair the rules.

supervisord runs it as the program portfleet-watch, once per home. Its own end changes nothing for clients.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from portfleet.apply.context import Context
from portfleet.core.errors import Exit
from portfleet.core.program import WATCHER
from portfleet.store import locks
from portfleet.store.directories import make_directories
from portfleet.store.log import Log
from portfleet.watch.preload import load_all
from portfleet.watch.recorder import Recorder
from portfleet.watch.self_check import SelfCheck

if TYPE_CHECKING:
    from portfleet.watch.server import Commands
    from portfleet.watch.snapshot import Snapshot

EXAMPLES = ("portfleet logs -f portfleet-watch",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json-logs", action="store_true", help="log JSON instead of key=value (also: PORTFLEET_JSON_LOGS=1)"
    )
    words = "where a watcher runs already, wait for its end and take over, instead of refusing (exit 5)"
    parser.add_argument("--wait", action="store_true", help=words)


def run(options: argparse.Namespace, context: Context) -> Exit:
    os.umask(0o077)
    gc.enable()  # unlike other verbs this one lives for months
    make_directories(context.paths)
    as_json = options.json_logs or os.environ.get("PORTFLEET_JSON_LOGS") == "1"
    recorder = Recorder(context.paths.events)
    log = Log(as_json=as_json, fallback=context.paths.log_of(WATCHER), note=recorder.note)
    context.patience = 0.0
    # Waiting, as supervisord's does: one that ended instead would be started again every second.
    wait = partial(log, "waiting", then="this one takes over when that one ends") if options.wait else None
    with locks.watcher(context.paths.watch_lock, wait=wait):
        check = SelfCheck(context.paths.watch_stacks, log)
        check.tell_before()
        load_all()
        asyncio.run(_watch(context, log, check, recorder))
        recorder.close()
    return Exit.DONE


async def _watch(context: Context, log: Log, check: SelfCheck, recorder: Recorder) -> None:
    from portfleet.apply.applied import Applied
    from portfleet.operations.daemons import MachineDaemons
    from portfleet.operations.engine import Engine
    from portfleet.operations.world import World
    from portfleet.watch.desk import Desk
    from portfleet.watch.ejector import Ejector
    from portfleet.watch.event_command import EventCommand
    from portfleet.watch.forget import Forgetter
    from portfleet.watch.healer import Healer
    from portfleet.watch.overflow_order import OverflowOrder
    from portfleet.watch.roster import Roster
    from portfleet.watch.rule_guard import RuleGuard
    from portfleet.watch.run_files import RunFiles
    from portfleet.watch.server import serve
    from portfleet.watch.watcher import Watcher

    paths, plane, applied = context.paths, context.plane, Applied(context)
    guardian = plane.guardian()
    if lacking := guardian.shortage:
        log("unprivileged", refused=lacking.refused, costs=lacking.costs)
    roster, forgetter = Roster(paths, applied), Forgetter(plane.connections, log)
    recorder.start(log, EventCommand(lambda: roster.on_event, log))
    log("started", pid=os.getpid())
    ejector = Ejector(plane=plane, paths=paths, latest=roster.latest, forget_unanswered=forgetter.begin, log=log)
    healer = Healer(plane=plane, paths=paths, roster=roster, ejector=ejector, log=log)
    rules = RuleGuard(roster=roster, healer=healer, guardian=guardian, log=log, busy=check.busy)
    watcher = Watcher(context, log, ejector=ejector, roster=roster, healer=healer, check=check)
    answers = _answers(watcher.snapshot, recorder)
    orders: Commands = {**answers, "reload": lambda _: watcher.wake()}
    seen: Commands = {**answers, **Desk(paths=paths, roster=roster, log=log).commands}
    files = RunFiles(
        paths, lambda: serve(paths.watch_socket, orders), lambda owner: serve(paths.seen_socket, seen, owner=owner)
    )
    for path in (paths.watch_socket, paths.seen_socket):
        path.unlink(missing_ok=True)  # of the watcher before this one
    await files.look(None)
    own = Context(paths).plane
    world = World(
        paths=paths, store=context.store, applied=applied, plane=own, supervisor=context.supervisor,
        daemons=MachineDaemons(context.supervisor, paths, own.connections), ejector=ejector, log=log, wake=watcher.wake,
        unsteady=roster.unsteady,
    )  # fmt: skip
    asyncio.get_running_loop().set_exception_handler(partial(_told, log))
    overflow = OverflowOrder(plane=plane, paths=paths, roster=roster, log=log)
    watching = asyncio.create_task(watcher.run(rules, files), name="watcher")
    for_ever = {
        "probes": watcher.probe(),
        "operations": Engine(world).run(),
        "overflow order": overflow.run(),
        "surroundings": watcher.surroundings.run(rules.hazards),
    }
    tasks = [asyncio.create_task(work, name=name) for name, work in for_ever.items()]
    done, _ = await asyncio.wait([watching, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done:  # of those that run for ever none may end: a watcher without one of them only looks alive
        if task is not watching or task.exception():
            check.end(task.get_name(), task.exception())
    check.close()
    for task in tasks:
        task.cancel()
    files.close()
    rules.close()
    log("stopped", reason="asked to")


def _answers(snapshot: Snapshot, recorder: Recorder) -> Commands:
    return {
        "status": lambda _: snapshot.status(),
        "fleet": lambda _: snapshot.fleet() | {"events": dict(recorder.counts)},
        "instances": lambda request: snapshot.instances(request.get("after")),
        "well": lambda request: snapshot.well(request.get("after")),
        "events": recorder.since,
    }


def _told(log: Log, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Take what a callback of the loop, or a task that is not waited for, did not catch."""
    log.unexpected("the loop", context.get("exception") or RuntimeError(context["message"]))
