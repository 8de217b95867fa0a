"""apply SERVICE and up SERVICE change one service, and the others stay as they were applied or taken down."""

from __future__ import annotations

from support.fleet_box import ECHO, fleet_box

TWO = ECHO.replace("instances = 4", "instances = 2")
KV = TWO.replace("service.echo", "service.kv").replace(":7000", ":6379").replace("7100-7107", "7200-7207")


def test_one_service_at_a_time() -> None:
    with fleet_box() as fleet:
        fleet.write(TWO + KV)
        fleet.portfleet("up")
        fleet.write((TWO + KV).replace("instances = 2", "instances = 3"))

        fleet.portfleet("apply", "kv")
        ready = [name for name, one in fleet.status().items() if one["state"] == "ready"]
        assert [sum(name.startswith(f"{service}-") for name in ready) for service in ("echo", "kv")] == [2, 3]
        assert "echo-blue-3" in fleet.portfleet("plan").stdout, "the other change waits"
        assert fleet.portfleet("apply", "nope", check=False).returncode == 2

        fleet.portfleet("down", "echo", "--yes")
        fleet.portfleet("down", "kv", "--yes")
        fleet.portfleet("up", "kv")
        said = fleet.portfleet("status", check=False).stdout
        assert "kv  live blue" in said and "echo  down by" in said
