"""Send a signal to the daemons of a service, as to have them read their files again; they go on serving.

The daemon itself gets it: the eldest process of an instance that listens on its port, or the one from which that was
forked (the master of nginx, gunicorn, haproxy -W), and no shell or script that started it. Without SIGNAL it is the
service's reload_signal. Instances of both colours get it, one after the other.
"""

from __future__ import annotations

import argparse
import signal
from typing import get_args

from portfleet.apply.context import Context
from portfleet.core.desired import DesiredInstance
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import LiveSignal, Service
from portfleet.linux import processes
from portfleet.screen.output import print_json
from portfleet.submit.targets import targets
from portfleet.supervise.members import Members, send

EXAMPLES = (
    "portfleet signal web",
    "portfleet signal web HUP",
    "portfleet signal web/web-blue-2 USR1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="SERVICE[/INSTANCE]", help="such as web, or web/web-blue-2")
    words = "HUP, USR1 or their like; by default the service's reload_signal"
    parser.add_argument("signal", metavar="SIGNAL", nargs="?", help=words)


def run(options: argparse.Namespace, context: Context) -> Exit:
    want, found = targets(context, options.target)
    number = _number(options.signal, want.service)
    if options.target == want.name:  # of both colours, as both have files open and connections to serve
        found = [one for one in want.running if one.program is not None]
    members = context.programs(context.desired(context.applied_fleet)).members()
    sent = [_send(one, members, number) for one in found]
    if context.json:
        print_json({"service": want.name, "signal": number.name, "instances": sent})
    else:
        for entry in sent:
            print(_line(entry, number))
    if not any(entry["pid"] for entry in sent):
        raise PortfleetError(f"no instance of {want.name} got the signal", hint="see: portfleet status")
    return Exit.DONE


def _number(text: str | None, service: Service) -> signal.Signals:
    """Return the signal that is meant; raises PortfleetError (exit 2) for one that would end or halt a daemon."""
    known = get_args(LiveSignal)
    word = (text or service.reload_signal or "").upper().removeprefix("SIG")
    if not word:
        raise PortfleetError(
            f"{service.name} has no reload_signal, so a signal has to be given",
            hint=f"portfleet signal {service.name} HUP; or set reload_signal in [service.{service.name}]",
            code=Exit.USAGE,
        )
    if word not in known:
        ends = "; to end and start instances: portfleet restart" if f"SIG{word}" in signal.Signals.__members__ else ""
        raise PortfleetError(
            f"{text!r} is no signal for a daemon that is to go on serving",
            hint=f"write one of {', '.join(known)}{ends}",
            code=Exit.USAGE,
        )
    return signal.Signals[f"SIG{word}"]


def _send(want: DesiredInstance, members: Members, number: signal.Signals) -> dict[str, object]:
    """Send the signal; return the instance, its daemon's pid and name, or why it got none."""
    there = members.of(want.name)
    daemon = members.daemon(want.name, want.rule.port)
    if daemon is None:
        why = f"does not listen on port {want.rule.port} yet" if there else "has no process here"
        return {"instance": want.name, "pid": None, "process": None, "why": why}
    words = processes.name_of(daemon.pid)
    send([daemon], number)
    return {"instance": want.name, "pid": daemon.pid, "process": words, "why": ""}


def _line(entry: dict[str, object], number: signal.Signals) -> str:
    if entry["pid"] is None:
        return f"{entry['instance']}: {entry['why']}; nothing was sent"
    return f"{entry['instance']}: {number.name} sent to {entry['process']} (pid {entry['pid']})"
