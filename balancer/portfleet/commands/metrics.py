"""Print the fleet's metrics for the textfile collector of Prometheus' node_exporter.

With [metrics] in fleet.toml a process of its own serves the same at /metrics, and a page for people beside it.
"""

from __future__ import annotations

import argparse
import sys

from portfleet.apply.context import Context
from portfleet.config.reader import parse_listen
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Listen

EXAMPLES = (
    "portfleet metrics",
    "portfleet metrics | sponge /var/lib/prometheus/node-exporter/portfleet.prom",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--serve", metavar="ADDRESS:PORT", type=_listen, help="serve /metrics and the page there; run by supervisord"
    )


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.serve is not None:
        from portfleet.metrics.serve import serve

        serve(options.serve, context.paths)
        return Exit.DONE
    from portfleet.metrics.families import text
    from portfleet.metrics.look import look

    found = look(context.paths.watch_socket)
    sys.stdout.buffer.write(text(found))
    sys.stdout.buffer.flush()
    if found.told is None:
        raise PortfleetError(found.trouble, hint="portfleet status")
    return Exit.DONE


def _listen(value: str) -> Listen:
    try:
        return parse_listen(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
