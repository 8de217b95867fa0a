"""Operations beside instances that do not serve: new ones that are not ready, ejected ones, those drained before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from support.fleet_box import FleetBox
from support.operated import TOLD, slots
from support.sandbox import sandbox, wait_for
from support.watched import load, pid_of, signal, watch_status

_OWN = "/run/pf/own/portfleet-daemon"
#: Three whose daemon does nothing at all while there is a file with the instance's name.
MUTE = TOLD.replace('"portfleet-daemon"', f'"{_OWN}"').replace("instances = 2", "instances = 3").replace('"8s"', '"3s"')
_SCRIPT = '#!/bin/sh\ntest -e /run/pf/mute-$PORTFLEET_INSTANCE && exec sleep 1000\nexec portfleet-daemon "$@"\n'


@contextmanager
def with_a_mute_third() -> Iterator[FleetBox]:
    """Give a fleet that is up but for its third instance, which runs and never becomes ready."""
    with sandbox() as boxes:
        box = FleetBox(boxes)
        box.write(MUTE)
        boxes.host.run("sh", "-c", f"mkdir -p /run/pf/own; cat > {_OWN}; chmod +x {_OWN}", text=_SCRIPT)
        boxes.host.run("touch", "/run/pf/mute-echo-blue-3")
        up = box.portfleet("up", check=False)
        assert up.returncode == 4 and "2 instances serve, 1 do not" in up.stdout, up
        yield box


def speak(box: FleetBox, name: str) -> None:
    """Have the mute instance ``name`` be a daemon from its next start on, which follows."""
    box.boxes.host.run("rm", f"/run/pf/mute-{name}")
    signal(box, pid_of(box, name), "KILL")


def test_no_command_gives_slots_to_one_that_has_never_been_ready() -> None:
    with with_a_mute_third() as box:
        wait_for("the watcher waits for it", lambda: watch_status(box)["pending"] == ["echo-blue-3"])
        assert box.status()["echo-blue-3"]["state"] == "starting"
        with load(box, held=20, connects=100) as clients:
            box.portfleet("drain", "echo/1", "--handoff")
            assert slots(box) == {"echo-blue-2": 4096}
            box.portfleet("undrain", "echo/1")
            assert slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048}
        assert (clients.refused, clients.lost) == (0, [])
        speak(box, "echo-blue-3")
        wait_for("the watcher has let it in", lambda: len(slots(box)) == 3)
        box.settled()
