"""Live view of how busy each instance is, the busiest first; q or Ctrl-C ends it.

CPU is a share of one processor: a single-threaded daemon has at most 100 %, and its clients queue before that. All
rates are of the last interval. New connections, requests, bytes and latency (upper bounds) are by the counters of our
own daemon, which also count the watcher's probes; of other daemons, new connections and bytes are what the kernel
knows of those that are still there, and requests and latency are not known ("-"). LAST shows the last intervals:
requests, or bytes. On a terminal, keys sort, filter, select an instance, and drain or undrain it after a question.
--json prints one object per line.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import Any

from portfleet.apply.context import Context
from portfleet.core.errors import Exit
from portfleet.core.model import parse_instance
from portfleet.core.printable import printable
from portfleet.core.slots import count
from portfleet.daemons.rates import Sample, rates, sample
from portfleet.daemons.traffic import Traffic, TrafficMeter
from portfleet.screen.keys import Keys, keys
from portfleet.screen.status_rows import at_rest, instance_entry
from portfleet.screen.top import SORTS, View, chosen, remember, show
from portfleet.screen.top_controls import Controls, Wish
from portfleet.store.clock import now
from portfleet.submit import options as read

EXAMPLES = (
    "portfleet top",
    "portfleet top echo --every 10s",
    "portfleet top --sort connections --filter green",
)

#: Characters of a question that are shown.
_QUESTION = 400
_SHOWN = ("name", "colour", "state", "pid", "slots", "connections")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")
    parser.add_argument("--every", type=read.duration, default=2.0, metavar="TIME", help="the interval (default 2s)")
    parser.add_argument(
        "-n", "--number", type=read.number, default=0, metavar="N", help="end after N intervals (default: never)"
    )
    words = f"the column to sort by (default cpu): {', '.join(SORTS)}"
    parser.add_argument("--sort", choices=SORTS, default="cpu", metavar="COLUMN", help=words)
    words = "show only instances with this text in their name or state"
    parser.add_argument("--filter", default="", metavar="TEXT", help=words)


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.service:
        context.service(context.serving_fleet, options.service)
    gc.enable()  # unlike other verbs this one stays
    every = max(options.every, 0.1)
    screen = sys.stdout.isatty() and not context.json
    view = View(sort=options.sort, filter=options.filter)
    with suppress(KeyboardInterrupt), keys() if screen else nullcontext() as typed:
        top = _Top(context, every, view, typed)
        for number, services in enumerate(_intervals(options.service, context, top.wait), 1):
            if context.json:
                print(json.dumps({"at": now(), "every": every, "services": services}), flush=True)
            else:
                top.show(services, screen=screen)
            if number == options.number:
                break
    return Exit.DONE


class _Top:
    """What is on the screen, and the keys meanwhile; ``typed`` is None if there are none."""

    def __init__(self, context: Context, every: float, view: View, typed: Keys | None) -> None:
        self._context, self._every, self._view, self._typed = context, every, view, typed
        self._controls = Controls(view) if typed is not None else None
        self._services: list[dict[str, Any]] = []

    def show(self, services: list[dict[str, Any]], *, screen: bool) -> None:
        """Print an interval; on a ``screen`` with what the ones before were like."""
        self._services = services
        if screen:
            remember(self._view.past, services)
        show(services, self._every, screen=screen, view=self._view)

    def wait(self) -> bool:
        """Wait for the end of the interval, doing what keys ask for; return False if that is the end."""
        if self._typed is None or self._controls is None:
            time.sleep(self._every)
            return True
        end = time.monotonic() + self._every
        while (left := end - time.monotonic()) > 0 and not self._controls.ended:
            for key in self._typed.read(left):
                names = [entry["name"] for service in self._services for entry in chosen(service, self._view)]
                if wish := self._controls.press(key, names):
                    self._carry_out(wish, self._controls)
                show(self._services, self._every, screen=True, view=self._view)
        return not self._controls.ended

    def _carry_out(self, wish: Wish, controls: Controls) -> None:
        """Do it if the reader is sure; otherwise ask, with what it would do."""
        instance = parse_instance(wish.instance)
        paths = self._context.paths
        home = ["--home", str(paths.home)] if paths.home else []
        service = instance.service if instance else ""
        words = [wish.verb, f"{service}/{wish.instance}", "--no-wait" if wish.sure else "--dry-run"]
        done = subprocess.run(
            [sys.executable, "-m", "portfleet", *home, "--config", str(paths.config), *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        told, asked = (" ".join(text.replace("portfleet: ", "").split()) for text in (done.stderr, done.stdout))
        if done.returncode or wish.sure or not asked.startswith("would "):
            controls.say(printable(asked or told))
        else:
            parts = filter(None, (asked.removesuffix("; nothing was done"), told))
            controls.ask(wish, printable("; ".join(parts), _QUESTION))


def _intervals(only: str | None, context: Context, wait: Callable[[], bool]) -> Iterator[list[dict[str, Any]]]:
    """Return the services as they are after each interval, until ``wait`` says that it was the last."""
    samples: dict[str, Sample | None] = {}
    meter = TrafficMeter()
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
                pid, status = entry["pid"], observed.seen(want.name).status
                traffic = (
                    _traffic(meter, want.rule.port) if pid and (status is None or status.accepted is None) else None
                )
                samples[want.name] = sample(pid, status, traffic) if pid else None
                found = rates(before.get(want.name), samples[want.name])
                if not at_rest(entry):
                    entries.append({key: entry[key] for key in _SHOWN} | {"rates": asdict(found) if found else None})
            services.append({"name": name, "live": service.live, "down": service.down or None, "instances": entries})
        if before:
            yield services
        if not wait():
            return


def _traffic(meter: TrafficMeter, port: int) -> Traffic | None:
    """Return what the kernel tells of a port; None if it refuses."""
    try:
        return meter.look(port)
    except OSError:
        return None
