"""`portfleet-daemon`, also `python -m portfleet_daemon`."""

from __future__ import annotations

import asyncio
import sys

from portfleet_daemon.asyncio_loop import ServingLoop
from portfleet_daemon.errors import EXIT_STOPPED, OperatorError
from portfleet_daemon.loop import ServingSelector
from portfleet_daemon.server import Server, raise_descriptor_limit
from portfleet_daemon.settings import read_settings
from portfleet_daemon.stats import Stats


def main() -> int:
    """Run the daemon until it is stopped; return the exit code (errors.py)."""
    try:
        settings = read_settings(sys.argv[1:])
        limit = raise_descriptor_limit()
        stats = Stats()
        selector = ServingSelector(stats=stats, descriptors=limit)
        server = Server(settings, selector=selector, stats=stats, limit=limit)
        with asyncio.Runner(loop_factory=lambda: ServingLoop(selector, escaped=server.connections.escaped)) as runner:
            runner.run(server.run())
    except OperatorError as error:
        print(f"portfleet-daemon: {error}\n  hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
