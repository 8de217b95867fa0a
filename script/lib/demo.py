"""The demo: a list of scenes, each of which shows one thing on real processes, packets and rules, and checks it.

Run by script/demo inside script/isolated. A scene is a function that takes the Stage; it types commands as an
operator would, and ends each thing it has shown with ``stage.shows(claim, true)``. Exit status: 0 all shown,
1 something was not shown, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from portfleet.screen.output import filled
from stage import WIDTH, NotShown, Stage, names, paint
from support.sandbox import BoxError, client4, client6, sandbox

CLIENTS = [client4(number) for number in range(1000)]
CLIENTS6 = [client6(number) for number in range(1000)]

FLEET = """\
[service.echo]
listen    = [":7000"]
command   = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:whoami"]
release   = "v1"
instances = 4
ports     = "7100-7199"
"""
#: The same for a user without root: instances listen where HAProxy reaches them, and no outsider.
BEHIND_HAPROXY = '[fleet]\ndataplane = "haproxy"\n\n' + FLEET.replace(
    'daemon", "--port', 'daemon", "--host", "{host}", "--port'
)


def one_file(stage: Stage) -> None:
    stage.scene(
        "One file describes the fleet",
        """A service listens on port 7000. Behind it run four single-threaded daemons, each on a port of its own; the
        daemon here answers every line with its name. `portfleet init` would write an example with every key.""",
    )
    stage.home.mkdir()
    (stage.home / "fleet.toml").write_text(BEHIND_HAPROXY if stage.haproxy else FLEET)
    if stage.haproxy:
        stage.home.parent.chmod(0o755)
        shutil.chown(stage.home, "nobody")
        stage.type("id -un; grep -E 'Cap(Eff|Bnd)' /proc/self/status")
    stage.type("cat $PORTFLEET_HOME/fleet.toml")
    stage.type("portfleet check")
    stage.type("portfleet plan", lines=14)
    rules = stage.boxes.host.run("nft", "list", "ruleset").stdout
    stage.shows("the plan says in words what would be done; the kernel has no rule yet", not rules)


def up(stage: Stage) -> None:
    stage.scene(
        "One command brings it up",
        "supervisord starts the daemons; when they are ready, HAProxy takes clients."
        if stage.haproxy
        else "supervisord starts the daemons; when they are ready, the kernel's nftables gets its rules.",
    )
    stage.type("portfleet up")
    stage.type("portfleet status")
    instances = stage.status()
    stage.shows(
        "four processes serve, each on its own port",
        [one["state"] for one in instances] == ["ready"] * 4 and len({one["port"] for one in instances}) == 4,
    )
    slots = [one["slots"] for one in instances]
    stage.shows(
        f"4,096 slots are shared evenly: {min(slots):,} to {max(slots):,} each",
        sum(slots) == 4096 and max(slots) - min(slots) <= 1,
    )


def spread(stage: Stage) -> None:
    stage.scene(
        "1,000 clients are spread",
        """From another network namespace, 1,000 client addresses connect to port 7000, three times each. """
        + (
            "HAProxy looks up a hash of the client's address in its maps."
            if stage.haproxy
            else """No proxy
        stands between: the kernel rewrites the port by a hash of the client's address."""
        ),
    )
    first, *again = [stage.ask(CLIENTS) for _ in range(3)]
    counts = Counter(names(first.values()))
    stage.histogram(counts)
    stage.shows(
        f"all 1,000 were answered, by {len(counts)} instances, {min(counts.values())} to {max(counts.values())} each",
        set(counts) == {one["name"] for one in stage.status()} and min(counts.values()) > 190,
    )
    stage.shows("every client met the same instance all three times", all(replies == first for replies in again))
    met = first | stage.ask(CLIENTS6)
    (stage.home / "clients").write_text("\n".join(met))
    said = stage.type("portfleet explain echo $(cat $PORTFLEET_HOME/clients)", lines=3)
    explained = dict(re.findall(r"^(\S+): slot \d+ → (\S+),", said, re.MULTILINE))
    stage.shows(
        "`explain` names, for each of 1,000 IPv4 and 1,000 IPv6 clients, the instance it met",
        explained == {address: reply.split()[0] for address, reply in met.items()},
    )


def crash(stage: Stage) -> None:
    stage.scene(
        "An instance is killed, and comes back",
        """200 clients keep a connection open and ask all the time; 300 new connections a second come in beside them.
        Then one of the four processes gets a SIGKILL. """
        + (
            "A new connection that meets no listener is dispatched to another instance."
            if stage.haproxy
            else """A new
        connection that meets no listener gets no answer instead of a refusal, so that its client's kernel tries again,
        a second later."""
        ),
    )
    victim = stage.status()[1]
    before = stage.ask(CLIENTS)
    with stage.talking(CLIENTS[:200], connects=300) as report:
        stage.type(f"kill -9 {victim['pid']}   # {victim['name']}")
        back = stage.wait_serving(victim["name"], other_than=victim["pid"])
        told = stage.type(f"portfleet logs portfleet-watch | grep {victim['name']}")
        stage.type("portfleet status")
    new, held = report["connects"], report["held"]
    lost = sum(one["lost"] for one in held)
    theirs = sum(name == victim["name"] for name in names(before[one["source"]] for one in held))
    stage.shows("the watcher ejected it, and let it in again when it was ready", bool(re.search(r"eject", told)))
    stage.shows(f"{victim['name']} is back as process {back['pid']}", back["pid"] != victim["pid"])
    stage.shows(f"of 200 held connections {lost} ended: those of the killed process, and no other", lost == theirs > 0)
    stage.shows(
        f"of {new['done'] + new['reset']:,} new connections none was refused; the slowest took {new['slowest']:.1f} s",
        new["refused"] == 0 and new["done"] > 0,
    )
    after = stage.ask(CLIENTS)
    stage.shows("all 1,000 clients are at home again", names(after.values()) == names(before.values()))


def drain(stage: Stage) -> None:
    stage.scene(
        "An instance is drained, and its connections are handed to the others",
        """The same clients. The drained process passes its established connections to its siblings as file descriptors:
        the clients keep their connection, address and port, and never notice.""",
    )
    name = stage.status()[2]["name"]
    with stage.talking(CLIENTS[:200], connects=300) as report:
        stage.type(f"portfleet drain echo/{name} --handoff")
        stage.type("portfleet status")
        drained = next(one for one in stage.status() if one["name"] == name)
        stage.type(f"portfleet undrain echo/{name}")
    moved = sum(one["seen"][0] == name != one["seen"][-1] for one in report["held"])
    stage.shows(f"{name} had no connection left", (drained["slots"], drained["connections"]) == (0, 0))
    stage.shows(f"{moved} held connections went from {name} to another process", moved > 0)
    nobody_noticed(stage, report)


def cutover(stage: Stage) -> None:
    stage.scene(
        "A new release goes live: blue to green",
        """The same clients. Four processes of release v2 start beside those of v1; when they are ready, all slots are
        pointed at them in one transaction, and the established connections are handed over.""",
    )
    with stage.talking(CLIENTS[:200], connects=300) as report:
        stage.type("portfleet cutover echo --release v2")
        stage.type("portfleet status")
    green = {one["name"] for one in stage.status()}
    moved = sum(one["seen"][-1] in green for one in report["held"])
    stage.shows(f"{moved} of 200 held connections are served by green now", moved == 200)
    nobody_noticed(stage, report)
    after = stage.ask(CLIENTS).values()
    stage.shows("all 1,000 clients meet release v2", all(reply.endswith("release=v2") for reply in after))


def nobody_noticed(stage: Stage, report: dict[str, Any]) -> None:
    """Show that no held connection ended and no new one failed."""
    new, lost = report["connects"], sum(one["lost"] for one in report["held"])
    stage.shows(
        f"0 of 200 held connections ended; of {new['done']:,} new ones none was refused or reset",
        (lost, new["refused"], new["reset"]) == (0, 0, 0) and new["done"] > 0,
    )


def down(stage: Stage) -> None:
    stage.scene("One command takes it down", "Every process ends, and of the kernel's rules only portfleet's own go.")
    stage.type("portfleet down --yes")
    rules = stage.boxes.host.run("nft", "list", "ruleset").stdout
    running = stage.boxes.host.run("ps", "-eo", "args=").stdout
    stage.shows("no process and no rule is left", not rules and "portfleet" not in running)


SCENES: list[Callable[[Stage], None]] = [one_file, up, spread, crash, drain, cutover, down]


def shell(stage: Stage) -> None:
    """Leave a shell in the sandbox, beside a fleet that is up."""
    stage.home.mkdir()
    (stage.home / "fleet.toml").write_text(FLEET)
    stage.type("portfleet up")
    print(_SHELL)
    environment = {**os.environ, **stage.environment, "PS1": "fleet# "}
    del environment["NO_COLOR"], environment["COLUMNS"]
    subprocess.run(stage.boxes.host.argv(["bash", "--norc"]), env=environment, check=False)


_SHELL = """
A shell beside that fleet, as root of its sandbox; exit ends the fleet and the sandbox. To begin with:

  portfleet status --watch        # Ctrl-C ends it
  exec 3<>/dev/tcp/127.0.0.1/7000; echo hello >&3; head -n 1 <&3
  portfleet cutover echo --release v2; echo hello >&3; head -n 1 <&3
  portfleet rollback echo
  portfleet help
"""
_NEXT = """
Next: script/demo --shell leaves you in a shell beside such a fleet.
      docs/tutorial.md goes from a bare Debian to releases of your own service.
"""


def main(arguments: Sequence[str]) -> int:
    """Show all scenes, or with --shell leave a shell beside a fleet."""
    title = "portfleet: a TCP service as a fleet of single-threaded processes, spread by the kernel"
    print(paint(filled(title, WIDTH), "1"))
    about = "All of this happens in private network namespaces; this machine's network and rules are not touched."
    print(filled(about, WIDTH))
    stage = None
    try:
        with tempfile.TemporaryDirectory() as folder, sandbox() as boxes:
            stage = Stage(boxes, Path(folder) / "fleet", haproxy="--haproxy" in arguments)
            if "--shell" in arguments:
                shell(stage)
                return 0
            for scene in SCENES:
                scene(stage)
            print(f"\n{stage.checked} claims in {len(SCENES)} scenes; everything shown above was checked.")
            print(_NEXT, end="")
    except (NotShown, BoxError, AssertionError) as error:
        print(paint(f"  ✗ not shown: {error}", "31"), flush=True)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is left behind")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
