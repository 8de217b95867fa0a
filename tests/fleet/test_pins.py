"""`pin` and `unpin` from outside: a pinned source meets its instance, and everybody is told."""

from __future__ import annotations

import pytest

from support.fleet_box import FleetBox, fleet_box
from support.sandbox import BoxError, client4
from support.watched import NAMED

pytestmark = pytest.mark.both_planes


def said(box: FleetBox, *words: str) -> str:
    return box.portfleet(*words).stdout


@pytest.mark.long
def test_pin_explain_status_and_unpin() -> None:
    with fleet_box(NAMED) as box:
        home = box.explain("echo", [client4(7), client4(8)])[client4(7)]
        target = next(f"echo-blue-{number}" for number in range(1, 5) if f"echo-blue-{number}" != home)
        words = said(box, "pin", "echo", client4(7), target)
        assert words.startswith(f"echo: new connections of {client4(7)}/32 go to {target}.")
        assert words.endswith(f"Undo with: portfleet unpin echo {client4(7)}/32\n")
        assert "would pin" in said(box, "pin", "echo", client4(9), target, "--dry-run")
        assert f"pin {client4(7)}/32 to {target}" in said(box, "history")
        assert "already pinned" in said(box, "pin", "echo", client4(7), target[-1])
        assert f"pinned to {target}" in said(box, "explain", "echo", client4(7))
        assert box.who([client4(7)])[client4(7)] == target
        assert f"{client4(7)}/32 → {target}" in said(box, "status")
        assert box.portfleet("plan", "--check").returncode == 0
        for wrong, complaint in (
            (("echo", "198.18.0.7/24", "2"), "not an address or a network"),
            (("echo", client4(7), "9"), "has no instance"),
            (("echo", client4(7), "echo-green-1"), "idle colour"),
        ):
            with pytest.raises(BoxError, match="exit 2"):
                box.portfleet("pin", *wrong)
            assert complaint in box.portfleet("pin", *wrong, check=False).stderr
        assert "goes by its slot again" in said(box, "unpin", "echo", client4(7))
        assert "is not pinned" in said(box, "unpin", "echo", client4(7))
        assert box.who([client4(7)])[client4(7)] == home == box.explain("echo", [client4(7), client4(8)])[client4(7)]
