"""Keep what is equal to what is wanted: eject the dead and the hung, let them in again, heal the rules.

Run by supervisord as the program portfleet-watch; only one runs per home. Its own end changes nothing for clients.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl

from portfleet.context import Context
from portfleet.errors import Exit, PortfleetError
from portfleet.watch.log import Log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json-logs", action="store_true", help="log JSON objects instead of key=value")


def run(options: argparse.Namespace, context: Context) -> Exit:
    context.paths.make()
    with context.paths.watch_lock.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PortfleetError(
                f"a watcher is already running for {context.paths.run}",
                hint="supervisord runs it; see: portfleet logs portfleet-watch",
                code=Exit.LOCKED,
            ) from None
        asyncio.run(_watch(context, Log(as_json=options.json_logs)))
    return Exit.DONE


async def _watch(context: Context, log: Log) -> None:
    from portfleet.watch.ejector import Ejector
    from portfleet.watch.server import serve
    from portfleet.watch.watcher import Watcher

    ejector = Ejector(kernel=context.kernel, paths=context.paths, forget_half_open=lambda mark: None)
    watcher = Watcher(context, log, ejector)
    commands = {
        "status": lambda _: {"out": {name: vars(out) for name, out in ejector.out.items()}},
        "reload": lambda _: watcher.wake(),
    }
    server = await serve(context.paths.watch_socket, commands)
    try:
        await watcher.run()
    finally:
        server.close()
    log("stopped", reason="asked to")
