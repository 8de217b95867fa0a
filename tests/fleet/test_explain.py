"""`explain --live`: where a client's connections are, and by which event they came to be elsewhere than new ones go."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import pytest

from support.fleet_box import FleetBox, fleet_box
from support.held import dialled
from support.sandbox import HOST4, client4, wait_for
from support.watched import NAMED, QUICK, signal, wait_event

pytestmark = pytest.mark.both_planes

SOURCE = client4(7)


def explained(box: FleetBox) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(box.portfleet("explain", "echo", SOURCE, "--live", "--json").stdout)
    return answer


def test_connections_of_an_ejected_instance_are_told_with_the_ejection() -> None:
    with fleet_box(NAMED + QUICK) as box, dialled(box.boxes.clients, (HOST4, 7000), [SOURCE, SOURCE]) as held:
        first = explained(box)
        name = first["instance"]
        assert [one["instance"] for one in first["connections"]] == [name, name]
        assert [one["port"] for one in first["connections"]] == sorted(one.getsockname()[1] for one in held)
        assert (
            first["moved_by"]["kind"] in ("applied", "ready", "serving") and first["connections"][0]["moved_by"] is None
        )
        pid = box.status()[name]["pid"]
        signal(box, pid, "STOP")
        wait_event(box, "ejected", instance=name)  # its clients are diverted from then on, its slots dealt right after
        wait_for("its slots are others'", lambda: explained(box)["instance"] != name)
        later = explained(box)
        for one in later["connections"]:
            assert one["instance"] == name
            assert (one["moved_by"]["kind"], one["moved_by"]["instance"]) == ("ejected", name)
        said = box.portfleet("explain", "echo", SOURCE, "--live").stdout
        assert f"on {name}" in said and f"where new ones do not go; event {later['moved_by']['number']}" in said
        signal(box, pid, "CONT")


@pytest.mark.kernel_only
def test_a_connection_that_was_handed_off_is_told_with_the_operation_that_did_it() -> None:
    with fleet_box(NAMED + QUICK) as box:
        box.boxes.host.sysctl("net.netfilter.nf_conntrack_timestamp", "1")
        began = time.time()
        with dialled(box.boxes.clients, (HOST4, 7000), [SOURCE]) as held:
            name = explained(box)["instance"]
            box.portfleet("drain", f"echo/{name}", "--handoff")
            (one,) = explained(box)["connections"]
            assert one["came_by"] == name and one["instance"] != name and one["port"] == held[0].getsockname()[1]
            assert (one["moved_by"]["kind"], one["moved_by"]["verb"]) == ("operation-ended", "drain")
            assert abs(datetime.fromisoformat(one["since"]).timestamp() - began) < 30
            assert f"handed off by {name}" in box.portfleet("explain", "echo", SOURCE, "--live").stdout
        assert "no established connection" in box.portfleet("explain", "echo", client4(8), "--live").stdout
