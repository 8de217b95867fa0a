"""Live view of how busy each instance is, the busiest first; Ctrl-C ends it.

CPU is a share of one processor: a single-threaded daemon has at most 100 %, and its clients queue before that. New
connections, requests and latency (upper bounds) are of the last interval, by the counters of our own daemon, which also
count the watcher's probes; other daemons have none ("-"). --json prints one object per line.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from portfleet.apply.context import Context
from portfleet.core.errors import Exit
from portfleet.core.slots import count
from portfleet.daemons.rates import Sample, rates, sample
from portfleet.screen.status_rows import at_rest, instance_entry
from portfleet.screen.top import show
from portfleet.store.clock import now
from portfleet.submit import options as read

EXAMPLES = (
    "portfleet top",
    "portfleet top echo --every 10s",
)

_SHOWN = ("name", "colour", "state", "pid", "slots", "connections")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")
    parser.add_argument("--every", type=read.duration, default=2.0, metavar="TIME", help="the interval (default 2s)")
    parser.add_argument(
        "-n", "--number", type=read.number, default=0, metavar="N", help="end after N intervals (default: never)"
    )


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.service:
        context.service(context.serving_fleet, options.service)
    gc.enable()  # unlike other verbs this one stays
    every = max(options.every, 0.1)
    screen = sys.stdout.isatty() and not context.json
    with suppress(KeyboardInterrupt):
        for number, services in enumerate(_intervals(options.service, context, every), 1):
            if context.json:
                print(json.dumps({"at": now(), "every": every, "services": services}), flush=True)
            else:
                show(services, every, screen=screen)
            if number == options.number:
                break
    return Exit.DONE


def _intervals(only: str | None, context: Context, every: float) -> Iterator[list[dict[str, Any]]]:
    """Return the services as they are after each interval."""
    samples: dict[str, Sample | None] = {}
    while True:
        fresh = Context(context.paths)  # the config and the journal may have changed
        desired = fresh.desired(fresh.serving_fleet)
        observed = fresh.observe(desired, probe=False)
        services, before, samples = [], samples, {}
        for name, service in desired.configured.items():
            if only not in (None, name):
                continue
            slots = count(observed.plane.slots.get(name, ()))
            entries = []
            for want in service.instances:
                entry = instance_entry(want, observed, slots, fresh.paths, {})
                pid = entry["pid"]
                samples[want.name] = sample(pid, observed.seen(want.name).status) if pid else None
                found = rates(before.get(want.name), samples[want.name])
                if not at_rest(entry):
                    entries.append({key: entry[key] for key in _SHOWN} | {"rates": asdict(found) if found else None})
            services.append({"name": name, "live": service.live, "down": service.down or None, "instances": entries})
        if before:
            yield services
        time.sleep(every)
