"""What was applied is in the history, and can be taken back: exactly that, and no more."""

from __future__ import annotations

import pytest

from support.fleet_box import REDIS, FleetBox, fleet_box

_TWO = REDIS.replace("instances = 4", "instances = 2")
_SOURCES = [f"198.18.5.{number}" for number in range(1, 9)]


def done(box: FleetBox) -> list[str]:
    """Return what the history says was done: verb and words."""
    lines = box.portfleet("history").stdout.splitlines()[::2]
    return [line.split("root@host  ")[1] for line in lines]


@pytest.mark.long
def test_apply_up_and_down_are_in_the_history_and_an_apply_can_be_undone() -> None:
    with fleet_box(_TWO) as box:
        box.write(_TWO.replace("6100-6107", "6200-6207"))
        said = box.portfleet("apply").stdout
        assert said.rstrip().endswith("Undo with: portfleet apply --undo"), said
        box.write(_TWO.replace("6100-6107", "6200-6207").replace("instances = 2", "instances = 3"))
        box.portfleet("apply")
        assert "Undo" not in box.portfleet("apply").stdout
        assert done(box) == ["up: the first config", "apply: ports of kv", "apply: instances of kv"]
        said = box.portfleet("apply", "--undo").stderr
        assert "is as it was: the next apply would apply it again" in said, said
        assert [name for name, one in box.status().items() if one["slots"]] == ["kv-blue-1", "kv-blue-2"]
        assert set(box.redis_ports(_SOURCES).values()) <= {6200, 6201}
        box.portfleet("apply", "--undo")
        assert set(box.redis_ports(_SOURCES).values()) <= {6100, 6101}
        nothing = box.portfleet("apply", "--undo", check=False)
        assert nothing.returncode == 2 and "no earlier config is kept" in nothing.stderr
        assert done(box)[-1] == "apply: return to the config before: ports of kv"
        assert "Undo with: portfleet up kv" in box.portfleet("down", "kv").stdout
        box.portfleet("up", "kv")
        box.portfleet("down")
        assert [one.split(":")[0] for one in done(box)[-3:]] == ["down", "up", "down"]
        assert done(box)[-1] == "down: take down kv"
