"""The rules that send packets on, as the kernel and this version of nft take them."""

from __future__ import annotations

import json

import pytest

from support.fleet_box import HOME, PORTFLEET
from support.sandbox import CLIENT4, CLIENT6, HOST4, HOST6, sandbox

CONFIG = f"""
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{{port}}"]
ports = "7100-7107"
instances = 2
affinity = "AFFINITY"

[forward]
addresses = ["203.0.113.100", "2001:db8:5::100"]
slots = 256
STATE
boxes.here = ["{HOST4}", "{HOST6}"]
boxes.there = ["{CLIENT4}", "{CLIENT6}"]
"""


@pytest.mark.parametrize("state", ["", 'draining = ["here"]'], ids=["in", "draining"])
@pytest.mark.parametrize("affinity", ["source", "source/24/56", "connection"])
def test_they_are_loaded_found_and_removed(affinity: str, state: str) -> None:
    with sandbox() as boxes:
        config = CONFIG.replace("AFFINITY", affinity).replace("STATE", state)
        boxes.host.run("sh", "-c", f"mkdir -p {HOME} && cat > {HOME}/fleet.toml", text=config)

        def forward(what: str) -> str:
            return boxes.host.run(PORTFLEET, "--home", HOME, "forward", what, "--json").stdout

        forward("load")
        assert forward("check") == ""
        shown = json.loads(forward("show"))
        assert shown["loaded"] and [one["this"] for one in shown["boxes"]] == [True, False]
        assert [one["slots"] for one in shown["boxes"]] == ([0, 256] if state else [128, 128])
        forward("load")
        assert forward("check") == "", "in one step from what was there"
        tables = boxes.host.run("nft", "list", "tables").stdout
        assert ("ip6 portfleet-forward" in tables) == bool(state)
        assert boxes.host.run("ip", "neigh", "show", "nud", "all").stdout.count("managed") == 2
        forward("remove")
        assert "managed" not in boxes.host.run("ip", "neigh", "show", "nud", "all").stdout
        assert boxes.host.run("nft", "list", "ruleset").stdout == ""
