"""Send clients' packets on to the box of their slot, where several boxes share the service's addresses.

The boxes and addresses are those of [forward] in fleet.toml, which is the same on all of them; the fleet need not be
up. `show` says what holds by it, `text` prints the rules, `load` loads them, `check` exits with 6 if what is loaded is
not what fleet.toml says. `keep` loads them and stays to keep them as they are (SIGHUP: by the fleet.toml of then);
they stay when it ends. `remove` ends it.
"""

from __future__ import annotations

import argparse
import signal
import sys

from portfleet.apply.context import Context
from portfleet.core import forwarding as core
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Fleet
from portfleet.core.printable import quantity
from portfleet.core.slots import count
from portfleet.dataplane.choose import forwarding
from portfleet.dataplane.forwarding import Forwarding
from portfleet.screen.output import print_json

EXAMPLES = ("portfleet forward", "portfleet forward text | less", "portfleet forward load")

#: Seconds between two looks of `keep`.
_PAUSE = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    choices = ("show", "text", "load", "check", "keep", "remove")
    parser.add_argument("what", nargs="?", default="show", choices=choices, metavar="WHAT", help=", ".join(choices))


def run(options: argparse.Namespace, context: Context) -> Exit:
    sender = forwarding()
    if options.what == "remove":
        sender.remove()
        return Exit.DONE
    fleet = _fleet(context)
    match options.what:
        case "show":
            _show(context, fleet, sender)
        case "text":
            print(sender.text(fleet), end="")
        case "load":
            sender.load(fleet)
        case "check":
            if sender.loaded() != sender.digest(fleet):
                print("what is loaded is not what fleet.toml says" if sender.loaded() else "nothing is loaded")
                return Exit.CHANGES
        case "keep":
            _keep(context, fleet, sender)
    return Exit.DONE


def _fleet(context: Context) -> Fleet:
    if not context.configured.forward.boxes:
        words = f"{context.paths.config} has no boxes: nothing is sent on"
        raise PortfleetError(words, hint="set addresses and boxes in [forward]", code=Exit.USAGE)
    return context.configured


def _show(context: Context, fleet: Fleet, sender: Forwarding) -> None:
    forward, here = fleet.forward, sender.own(fleet)
    starts, ways = count(core.starts(forward)), count(core.ways(forward))
    loaded = sender.loaded() == sender.digest(fleet)
    states = {name: state for state in ("draining", "out", "returning") for name in getattr(forward, state)}
    boxes = [
        {
            "name": name,
            "addresses": list(addresses),
            "state": states.get(name, "in"),
            "slots": starts[name],
            "slots_of_established": ways[name],
            "this": name == here,
        }
        for name, addresses in forward.boxes.items()
    ]
    if context.json:
        print_json(
            {"addresses": list(forward.addresses), "boxes": boxes, "checksum": core.checksum(forward), "loaded": loaded}
        )
        return
    print("" if loaded else "not loaded on this box: portfleet forward load\n", end="")
    width = max(len(name) for name in forward.boxes)
    print(f"{', '.join(forward.addresses)}: {quantity(forward.slots, 'slot')}, checksum {core.checksum(forward)}")
    for one in boxes:
        this = "  this box" if one["this"] else ""
        own = " ".join(forward.boxes[str(one["name"])])
        print(f"{one['name']:{width}}  {one['state']:9}  slots {one['slots']:6,}  {own}{this}")
    if here is None:
        print("this box is none of them: a balancer alone")


def _keep(context: Context, fleet: Fleet, sender: Forwarding) -> None:
    """Keep the rules as they are to be until SIGTERM."""
    orders = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, orders)
    trouble = ""
    loaded = False
    while True:
        try:
            if loaded and sender.holds():
                sender.follow()
            else:
                sender.load(fleet)
                _say("rules loaded, as they were not there as they are to be" if loaded else "rules loaded")
                loaded = True
            trouble = ""
        except (PortfleetError, OSError) as error:
            if str(error) != trouble:
                trouble = str(error)
                _say(trouble)
        order = signal.sigtimedwait(orders, _PAUSE)
        if order is not None and order.si_signo != signal.SIGHUP:
            return
        if order is not None:
            try:
                fleet, loaded = _fleet(Context(context.paths)), False
            except PortfleetError as error:
                _say(f"{error}\ngoing on by what was loaded last")


def _say(words: str) -> None:
    print(f"portfleet: {words}", file=sys.stderr, flush=True)
