"""Kernels without IPv6, and services of one family."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fleet_box import HOME, PORTFLEET, FleetBox, fleet_box
from support.sandbox import client4, client6
from support.watched import NAMED

_SECCOMP = str(Path(__file__).parents[1] / "support/seccomp.py")


def without(box: FleetBox, *words: str) -> tuple[int, str]:
    done = box.boxes.host.run("python3", _SECCOMP, "ipv6", PORTFLEET, "--home", HOME, *words, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
def test_every_local_address_is_ipv4_alone_on_a_kernel_without_ipv6() -> None:
    with fleet_box() as box:
        box.write(NAMED)
        assert without(box, "check")[0] == 0
        code, said = without(box, "up")
        assert code == 0, said
        assert "listens on 0.0.0.0:7000" in without(box, "status")[1]
        box.who([client4(1), client4(2)])
        assert without(box, "plan", "--check")[0] == 0
        box.write(NAMED.replace('":7000"', '"[::]:7000"'))
        code, said = without(box, "check")
        assert code == 2 and 'write "0.0.0.0:7000"' in said
        box.write(NAMED)
        assert "open :7000 of echo" in box.portfleet("plan").stdout, "as after a boot with IPv6"
        assert without(box, "down", "--yes")[0] == 0


def test_a_service_of_ipv6_alone_serves() -> None:
    with fleet_box(NAMED.replace('":7000"', '"[::]:7000"')) as box:
        box.calm()
        box.who([client6(1), client6(2)])
        assert {one["slots"] for one in box.status().values() if one["state"] == "ready"} == {1024}
        (asked,) = box.ask([client4(1)], port=7000, message="who\n")
        assert asked.reply is None
