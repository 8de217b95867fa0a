"""What a service needs no more goes when nothing leads to it: who still has connections keeps its rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from portfleet.core.changes import Transaction
from portfleet.core.derive import make_desired
from portfleet.core.observed import ObservedInstance
from portfleet.core.plan import make_plan, transactions
from support.fleets import PATHS, fleet
from support.plane import Plane
from support.sandbox import client4, client6

ECHO = """
[service.echo]
listen = [":7000"]
command = ["redis-server", "--port", "{port}"]
ports = "7100-7115"
instances = 3
slots = 256
"""
KV = ECHO.replace("echo", "kv").replace("7000", "6000").replace("71", "61")
LIMIT = "max_connections = 20\n"
STICKY = 'sticky = "1h"\nsticky_size = 5000\n'
CLIENTS = [client4(number * 409) for number in range(20)] + [client6(number * 204) for number in range(20)]


def apply(rules: Plane, text: str, *, busy: Iterable[str] = (), outdated: Iterable[str] = ()) -> None:
    """Carry out the plan to ``text`` and see that it leads there."""
    for transaction in planned(rules, text, busy=busy, outdated=outdated):
        rules.kernel.run(transaction)
    assert planned(rules, text, busy=busy) == []


def planned(rules: Plane, text: str, *, busy: Iterable[str] = (), outdated: Iterable[str] = ()) -> list[Transaction]:
    """Return the transactions to ``text``; ``busy`` still have connections, ``outdated`` run another command."""
    rules.desired = make_desired(fleet(text), rules.journal, PATHS)
    seen = rules.observed()
    still = dict.fromkeys(busy, ObservedInstance("RUNNING", ready=True, connections=3))
    seen = replace(seen, instances={**seen.instances, **still}, outdated=frozenset(outdated))
    steps = make_plan(rules.desired, seen).steps
    return [transaction for _, transaction in transactions(steps, rules.desired, seen.plane)]


def listing(rules: Plane) -> str:
    return rules.boxes.host.run("nft", "list", "ruleset").stdout


@pytest.mark.parametrize("extra", [LIMIT, STICKY])
def test_a_service_goes_while_one_of_its_instances_still_has_connections(rules: Plane, extra: str) -> None:
    rules.load(KV + ECHO + extra)

    apply(rules, KV, busy=["echo-blue-1"])

    state = rules.kernel.observe()
    assert state.services.keys() == {"kv"}
    assert {name for name in state.instances if name.startswith("echo")} == {"echo-blue-1"}
    apply(rules, KV)
    assert "echo" not in listing(rules)


def test_a_service_that_comes_back_finds_the_instance_that_stayed(rules: Plane) -> None:
    rules.load(KV + ECHO + LIMIT + STICKY)
    apply(rules, KV, busy=["echo-blue-1"])
    apply(rules, KV + ECHO + LIMIT + STICKY)
    rules.serve(names=[f"echo-blue-{number}" for number in (1, 2, 3)])
    assert set(rules.met(CLIENTS).values()) == {"echo-blue-1", "echo-blue-2", "echo-blue-3"}


@pytest.mark.long
@pytest.mark.parametrize("extra", [LIMIT + STICKY, LIMIT + 'overflow = "refuse"\n'])
def test_what_goes_with_a_rolling_restart_goes_with_the_last_that_is_restarted(rules: Plane, extra: str) -> None:
    rules.load(ECHO + extra)
    rules.serve()
    names = ["echo-blue-1", "echo-blue-2", "echo-blue-3"]
    for transaction in planned(rules, ECHO, outdated=names):
        rules.kernel.run(transaction)
        assert None not in rules.met(CLIENTS).values()
        assert rules.kernel.observe().drift == frozenset()
    assert rules.is_as_wanted()
    for word in ("sticky", "taking", "counts", "try_", "cap_", "overflow", "full_", "full-", 'name "full"'):
        assert word not in listing(rules), word


def test_without_a_memory_what_is_still_used_is_left_for_later(rules: Plane) -> None:
    rules.load(KV + ECHO + STICKY)
    rules.kernel._memory.path.unlink()
    apply(rules, KV, busy=["echo-blue-1"])
    apply(rules, KV)
    assert "echo" not in listing(rules)
