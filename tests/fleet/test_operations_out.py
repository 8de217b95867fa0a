"""Operations beside instances that do not serve: new ones that are not ready, ejected ones, those drained before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.fleet_box import FleetBox
from support.operated import TOLD, cancelled, last_releases, operated, phase, reboot, slots
from support.sandbox import client4, sandbox, wait_for
from support.watched import events, load, pid_of, signal, wait_event, watch_status

_OWN = "/run/pf/own/portfleet-daemon"
THREE = TOLD.replace("instances = 2", "instances = 3")
#: Three whose daemon does nothing at all while there is a file with the instance's name.
MUTE = THREE.replace('"portfleet-daemon"', f'"{_OWN}"').replace('"8s"', '"3s"')
_SCRIPT = '#!/bin/sh\ntest -e /run/pf/mute-$PORTFLEET_INSTANCE && exec sleep 1000\nexec portfleet-daemon "$@"\n'


@contextmanager
def with_a_mute_third() -> Iterator[FleetBox]:
    """Return a fleet that is up but for its third instance, which runs and never becomes ready."""
    with sandbox() as boxes:
        box = FleetBox(boxes)
        box.write(MUTE)
        boxes.host.run("sh", "-c", f"mkdir -p /run/pf/own; cat > {_OWN}; chmod +x {_OWN}", text=_SCRIPT)
        boxes.host.run("touch", "/run/pf/mute-echo-blue-3")
        up = box.portfleet("up", check=False)
        assert up.returncode == 4 and "2 instances serving, 1 not" in up.stdout, up
        yield box


def speak(box: FleetBox, name: str) -> None:
    """Have the mute instance ``name`` be a daemon from its next start on, which follows."""
    box.boxes.host.run("rm", f"/run/pf/mute-{name}")
    signal(box, pid_of(box, name), "KILL")


def drain_refused(box: FleetBox, *words: str) -> str:
    """Drain what must not be drained, see that no slot moves, and give what is said."""
    before = slots(box)
    refused = box.portfleet(*words, check=False)
    assert refused.returncode in (1, 2) and slots(box) == before, refused
    return refused.stderr


@pytest.mark.long
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


@pytest.mark.full
def test_a_drain_beside_those_that_are_out_is_refused() -> None:
    with operated(TOLD + 'interval = "200ms"\n') as box:
        signal(box, pid_of(box, "echo-blue-2"), "STOP")
        wait_event(box, "ejected", instance="echo-blue-2")
        wait_for("its slots are dealt", lambda: slots(box) == {"echo-blue-1": 4096})
        # Who else shall serve is out: the slots would stay where they are.
        assert "out: echo-blue-2" in drain_refused(box, "drain", "echo/1", "--force")
        assert "would leave none" in drain_refused(box, "restart", "echo/1")
        signal(box, pid_of(box, "echo-blue-1"), "STOP")
        signal(box, pid_of(box, "echo-blue-2"), "CONT")
        wait_event(box, "serving", instance="echo-blue-2")
        wait_event(box, "ejected", instance="echo-blue-1")
        wait_for("its slots are dealt", lambda: slots(box) == {"echo-blue-2": 4096})
        assert "drained or out" in drain_refused(box, "scale", "echo", "1")
        assert "would restart" in box.portfleet("restart", "echo/1", "--dry-run").stdout
        signal(box, pid_of(box, "echo-blue-1"), "CONT")


@pytest.mark.long
def test_drain_and_maintenance_are_true_to_their_word() -> None:
    with operated() as box:
        box.portfleet("maint", "echo/2")
        assert box.portfleet("plan", "--check").returncode == 0
        assert "already up to date" in box.portfleet("apply").stdout
        assert box.status()["echo-blue-2"]["state"] == "maintenance"
        box.portfleet("drain", "echo", "--force")
        assert slots(box) == {}
        asked = box.ask([client4(i) for i in range(50)], port=7000, message="who\n")
        assert [one for one in asked if one.reply] == []
        assert box.status()["echo-blue-2"]["wanted"] == "maintenance"
        assert "already" in box.portfleet("drain", "echo", "--force").stdout
        box.settled()
        box.portfleet("undrain", "echo")
        assert slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048}
        assert all(one.reply for one in box.ask([client4(i) for i in range(50)], port=7000, message="who\n"))


@pytest.mark.full
def test_a_reboot_starts_nothing_that_is_in_maintenance() -> None:
    with operated() as box:
        box.portfleet("maint", "echo/2")
        reboot(box)
        box.settled()
        assert box.status()["echo-blue-2"]["pid"] is None
        box.portfleet("undrain", "echo/2")
        assert slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048}


@pytest.mark.long
def test_what_was_drained_before_an_operation_is_drained_after_it() -> None:
    with operated(THREE) as box:
        with load(box, held=30, connects=50) as clients:
            box.portfleet("drain", "echo/3", "--handoff", "--why", "a new disk")
            drained = wanted(box)
            since = asked(box)["echo-blue-3"]
            box.portfleet("restart", "echo")
            assert wanted(box) == drained and asked(box)["echo-blue-3"] == since
            assert slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048}
            assert "cancelled" in cancelled(box, ("drain", "echo/1"), "ending")
            assert wanted(box) == drained
            # An undrain of all ends the drain that is under way, and lets in what was drained before it too.
            box.portfleet("drain", "echo/2", "--no-wait")
            wait_for("it drains", lambda: phase(box) == "ending")
            box.portfleet("undrain", "echo")
            assert set(wanted(box).values()) == {"serving"}
            wait_for("all serve", lambda: len(slots(box)) == 3)
        assert (clients.refused, clients.lost) == (0, [])
        box.settled()


def wanted(box: FleetBox) -> dict[str, str]:
    return {name: found["wanted"] for name, found in box.status().items() if found["colour"] == "blue"}


def asked(box: FleetBox) -> dict[str, object]:
    """Return what operators asked of instances, out of the journal."""
    journal = json.loads(box.boxes.host.run("cat", "/run/pf/lib/journal.json").stdout)
    return dict(journal["services"]["echo"]["asked"])


@pytest.mark.full
def test_cutovers_beside_a_drained_instance_and_one_in_maintenance() -> None:
    with operated(THREE) as box:
        box.portfleet("drain", "echo/3", "--handoff")
        with load(box, held=30, connects=1):  # they keep it in that phase, being evicted by the policy
            box.portfleet("cutover", "echo", "--release", "v2", "--drain", "--no-wait")
            wait_for("it drains blue", lambda: phase(box) == "moving")
            with load(box, held=60, connects=50) as clients:
                assert "blue serves" in box.portfleet("cancel", "echo").stdout
                assert slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048}
        assert (clients.refused, clients.lost) == (0, [])
        assert any("green-3" in held["seen"][0] for held in clients.report["held"])
        with load(box, held=30, connects=50) as clients:
            box.portfleet("maint", "echo/2", "--handoff")
            box.portfleet("cutover", "echo", "--release", "v3")
            # All at once, and not as the watcher finds one after the other ready.
            assert [e for e in events(box, "serving") if "green" in e.fields["instance"]] == []
            assert len(slots(box)) == 3
            box.write("[half an edit")
            box.portfleet("rollback", "echo")
            assert slots(box) == {"echo-blue-1": 4096}
            found = box.status()["echo-blue-2"]
            assert (found["state"], found["pid"]) == ("maintenance", None)
        assert (clients.refused, clients.lost) == (0, [])
        assert last_releases(clients.report) == {"v1": 30}
