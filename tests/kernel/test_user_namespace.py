"""Root of a user namespace that is not the machine's first has no SO_RCVBUFFORCE and no SO_SNDBUFFORCE.

`unshare -U` makes one for root as well, so these show the same whoever runs them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

#: More notifications than the kernel keeps, then one change more.
LOSING = """
import json, select, subprocess
from portfleet.dataplane.nft.events import RulesWatch

def nft(script):
    subprocess.run(["nft", "-f", "-"], input=script.encode(), check=True)

nft("table inet x { map m { typeof meta cpu : ct mark; }; }")
watch = RulesWatch()
elements = ", ".join(f"{slot} : 1" for slot in range(4000))
for _ in range(100):
    nft("add element inet x m { %s }; flush map inet x m" % elements)
found = watch.read()
nft("delete table inet x")
assert select.select([watch], [], [], 10)[0]
print(json.dumps([watch.shortage, [change.lost for change in found], sorted(watch.read()[-1].deleted)]))
"""
#: 20,000 slots: with nft 1.0 as one message longer than any that the kernel takes here.
POINTING = """
import json, sys
from pathlib import Path
from portfleet.core import changes as c
from portfleet.core.model import Affinity
from portfleet.dataplane.nft.context import NftContext, TooLong
from portfleet.dataplane.nft.events import Generation
from portfleet.dataplane.nft.plane import NftPlane

elements = ", ".join(f"{slot} : 1" for slot in range(20_000))
try:
    NftContext().do("table inet x { map m { typeof meta cpu : ct mark; elements = { %s }; }; }" % elements)
    whole = True
except TooLong:
    whole = False
plane, generation = NftPlane(Path(sys.argv[1])), Generation()
names = ("echo-blue-1", "echo-blue-2")
rules = [c.SetInstance(c.InstanceRule(name, mark, 7100 + mark)) for mark, name in enumerate(names, 1)]
service = c.ServiceRule("echo", Affinity("source"), 1, 20_000)
plane.run((c.SetFleet("0123456789abcdef"), *rules, c.SetService(service)))
before = generation()
plane.run((c.Route(service, names * 10_000),))
parts = generation() - before
first = plane.read_slots("echo")
plane.run((c.Route(service, (names[1],) * 20_000),))
print(json.dumps([whole, parts, first == names * 10_000, set(plane.read_slots("echo")) == {names[1]}]))
"""


def alone(script: str, *arguments: str) -> Any:
    """Run a Python program as root of a user and a network namespace of its own; gives the JSON that it prints."""
    command = ["unshare", "-U", "--map-root-user", "-n", sys.executable, "-c", script, *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120).stdout)


@pytest.mark.long
def test_notifications_that_did_not_fit_are_told_of_as_lost_and_later_ones_come() -> None:
    shortage, lost, deleted = alone(LOSING)
    assert "are lost: the rules are looked at instead" in shortage
    assert True in lost
    assert deleted == ["x"]


def test_a_transaction_that_is_too_long_for_one_message_is_done_in_parts(tmp_path: object) -> None:
    whole, parts, first, second = alone(POINTING, f"{tmp_path}/rules.json")
    assert parts == 1 if whole else parts > 1  # nft 1.1 sends what 1.0 cannot
    assert first and second
