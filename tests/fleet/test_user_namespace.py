"""A fleet whose root is that of a user namespace: what takes a right of the machine's root is done without."""

from __future__ import annotations

import pytest

from support.fleet_box import fleet_box
from support.watched import NAMED, QUICK, events, load, pid_of, signal, wait_event


@pytest.mark.long
def test_the_watcher_runs_ejects_and_repairs_without_a_right_of_the_machines_root() -> None:
    with fleet_box(NAMED + QUICK, users=True) as box:
        watcher = pid_of(box, "portfleet-watch")
        assert [event.fields["refused"] for event in events(box, "unprivileged")] == ["SO_RCVBUFFORCE", "nice -20"]
        with load(box) as clients:
            signal(box, box.status()["echo-blue-2"]["pid"], "KILL")
            ejected = wait_event(box, "ejected", instance="echo-blue-2")
            wait_event(box, "serving", instance="echo-blue-2", after=ejected)
            box.boxes.host.run("nft", "flush", "ruleset")
            wait_event(box, "healed", lost="table")
            box.portfleet("cutover", "echo", "--release", "v2")
        assert clients.refused == 0 and clients.lost_beside("echo-blue-2") == []
        assert pid_of(box, "portfleet-watch") == watcher != 0


def test_an_instance_of_a_user_that_the_namespace_does_not_have_is_refused_in_words() -> None:
    with fleet_box(users=True) as box:
        box.write(NAMED + 'user = "nobody"\n')
        refused = box.portfleet("up", check=False)
        assert refused.returncode == 2
        assert 'service.echo.user: this user namespace has no user "nobody"' in refused.stderr
