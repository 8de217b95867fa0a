"""Clients that the guard dropped tell of an instance that lives without its listener, long before its next probe."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.fleet_box import fleet_box
from support.watched import load, signal, wait_event

_CLOSING = Path(__file__).parents[1] / "support" / "closing.py"
#: Two whose probes come once a minute.
SLOWLY = f"""
[service.echo]
listen = [":7000"]
command = ["/usr/bin/python3", "{_CLOSING}", "{{port}}", "{{instance}}"]
ports = "7100-7107"
instances = 2
[service.echo.probe]
interval = "60s"
fall = 1
"""


@pytest.mark.long
def test_a_lost_listener_is_found_by_the_clients_that_were_dropped() -> None:
    with fleet_box(SLOWLY) as box:
        wait_event(box, "watching")
        with load(box, held=20, connects=50) as clients:
            signal(box, box.status()["echo-blue-2"]["pid"], "USR1")
            closed = time.time()
            told = wait_event(box, "dropped", instance="echo-blue-2")
            assert "no process listens on port 7101" in told.fields["reason"]
            ejected = wait_event(box, "ejected", instance="echo-blue-2")
            assert ejected.at - closed < 10
        assert clients.refused == 0, clients.report["connects"]
        assert clients.lost == [], "those it has it serves on"
