"""Plans: what they lead to, in which order, and that clients are served all the time. Nothing here needs a machine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfleet.core import steps as s
from portfleet.core.changes import Route, SetFleet
from portfleet.core.model import Fleet, parse_instance
from portfleet.core.slots import Table, count
from portfleet.store import locks
from portfleet.supervise.ini import program_text
from support.fake_world import World
from support.fleets import ECHO, fleet, machine


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


SERVICE = st.fixed_dictionaries(
    {
        "instances": st.integers(1, 4),
        "ports": st.sampled_from([0, 8]),
        "listen": st.lists(
            st.sampled_from(["", "0.0.0.0", "[::]", "192.0.2.1", "[2001:db8::1]"]), min_size=1, max_size=2, unique=True
        ).filter(lambda found: "" not in found or not {"0.0.0.0", "[::]"} & set(found)),
        "mode": st.sampled_from(["1", "2"]),
        "affinity": st.sampled_from(["source", "source/24", "round-robin"]),
        "weight": st.sampled_from([1, 1, 3]),
    }
)
FLEETS = st.dictionaries(st.sampled_from(["a", "b"]), SERVICE, min_size=1)


def made(services: dict[str, dict[str, object]]) -> Fleet:
    """Return the fleet of the drawn ``services``: each has a hundred ports and a listen port of its own."""
    text = ""
    for name, found in services.items():
        low = {"a": 7100, "b": 7200}[name] + int(str(found["ports"]))
        port = {"a": 7000, "b": 7001}[name]
        listen = [f"{address}:{port}" for address in found["listen"]]  # type: ignore[attr-defined] # a list of strings
        text += f"""
[service.{name}]
listen = {listen}
command = ["redis-server", "--port", "{{port}}", "--mode", "{found["mode"]}"]
ports = "{low}-{low + 7}"
instances = {found["instances"]}
slots = 256
affinity = "{found["affinity"]}"
weight = {{ 1 = {found["weight"]} }}
"""
    return fleet(text, machine())


def check_is_as_wanted(world: World, wanted: Fleet) -> None:
    """Kernel, supervisord and journal are what ``wanted`` asks; nothing is left to do and nothing left over."""
    desired, plan = world.plan(wanted)
    state = world.kernel.observe()

    assert plan.describe() == []
    assert state.drift == frozenset() and state.fleet == SetFleet(desired.home, desired.ports)
    assert state.services == {name: want.rule for name, want in desired.services.items()}
    assert state.instances == {want.name: want.rule for want in desired.instances()}
    listens = {listen: name for name, want in desired.services.items() for listen in want.service.listen}
    assert state.listens == listens
    programs = {name: known.text for name, known in world.supervisor.known.items() if parse_instance(name)}
    assert programs == {name: program_text(program) for name, program in desired.programs.items()}
    for name, want in desired.services.items():
        assert state.slots[name] == want.table(())
        held = {instance.name: instance.weight for instance in want.instances if instance.takes}
        assert count(state.slots[name]).keys() == held.keys()


@settings(max_examples=50)
@given(FLEETS, FLEETS, st.randoms(use_true_random=False))
def test_applying_the_plan_gives_what_is_wanted_and_planning_again_gives_nothing(
    first: dict[str, dict[str, object]], second: dict[str, dict[str, object]], chance: random.Random
) -> None:
    with TemporaryDirectory(dir="/dev/shm") as directory:  # fsync costs nothing there
        world = World(Path(directory))
        world.apply(made(first))
        check_is_as_wanted(world, made(first))

        damage(world, chance)
        world.apply(made(second))

        check_is_as_wanted(world, made(second))


def damage(world: World, chance: random.Random) -> None:
    """Do what happens to a fleet: processes end, people edit rules, memory and files get lost."""
    state = world.kernel.observe()
    for name in sorted(world.supervisor.known):
        if chance.random() < 0.2:
            world.supervisor.known[name].state = chance.choice(["STOPPED", "FATAL", "EXITED"])
        if chance.random() < 0.1:
            (world.paths.programs / f"{name}.conf").unlink()
    for name in sorted({"", *state.services, *state.instances}):
        if chance.random() < 0.1:
            world.kernel.edit(name)
    if chance.random() < 0.1:
        world.kernel.forget()


@settings(max_examples=25)
@given(FLEETS, FLEETS, st.data())
def test_some_that_never_become_ready_do_not_hold_up_the_others(
    first: dict[str, dict[str, object]], second: dict[str, dict[str, object]], data: st.DataObject
) -> None:
    with TemporaryDirectory(dir="/dev/shm") as directory:  # fsync costs nothing there
        world = World(Path(directory))
        world.apply(made(first))
        names = sorted(want.name for want in world.desired(made(second)).instances() if want.program)
        world.doomed = set(data.draw(st.lists(st.sampled_from(names), unique=True)))

        desired = world.apply(made(second))

        for name, want in desired.services.items():
            serving = {i.name for i in want.instances if i.takes} - world.doomed
            if serving:
                owners = count(world.slots()[name])
                assert owners.keys() == serving and sum(owners.values()) == 256
        world.doomed = set()
        world.apply(made(second))
        check_is_as_wanted(world, made(second))


def words(world: World, text: str) -> list[str]:
    """Return the plan for the config ``text`` in words."""
    return world.plan(fleet(text))[1].describe()


def steps(world: World, text: str) -> Iterator[s.Step]:
    yield from world.plan(fleet(text))[1].steps


def test_a_service_that_is_not_wanted_any_more_goes_when_its_connections_have_ended(world: World) -> None:
    kv = ECHO.replace("echo", "kv").replace("7000", "6000").replace("710", "610")
    world.apply(fleet(ECHO + kv))
    world.busy = {"kv-blue-1"}

    world.apply(fleet(ECHO))

    _, plan = world.plan(fleet(ECHO))
    assert plan.steps == () and [note.split(" (")[0] for note in plan.notes] == [
        "kv-blue-1 is no longer in the config; 7 connections are draining. Run apply again when they have closed"
    ]
    assert "kv" not in world.kernel.observe().services
    assert "kv" in world.desired(fleet(ECHO)).journal.services, "its marks are kept while connections carry them"
    world.busy = set()
    world.apply(fleet(ECHO))
    check_is_as_wanted(world, fleet(ECHO))
    assert "kv" not in world.desired(fleet(ECHO)).journal.services


def test_clients_move_only_by_the_share_that_must(world: World) -> None:
    world.apply(fleet(ECHO))
    before = world.slots()["echo"]

    _, plan = world.plan(fleet(ECHO.replace("= 4", "= 3")))
    assert plan.moved == {"echo": (1024, 4096)}
    world.apply(fleet(ECHO.replace("= 4", "= 3")))

    after = world.slots()["echo"]
    assert all(old == new for old, new in zip(before, after, strict=True) if old != "echo-blue-4")


def test_a_new_instance_gets_slots_only_when_it_is_ready(world: World) -> None:
    world.apply(fleet(ECHO.replace("= 4", "= 3")))
    kinds = [type(step) for step in steps(world, ECHO)]
    order = [s.WriteJournal, s.LoadRules, s.StartInstances, s.WaitReady, s.PointSlots]
    assert kinds == order


def serves_alone(world: World, name: str) -> None:
    """Have all slots of echo lead to ``name``, as after an ejection of all others."""
    rule = world.kernel.observe().services["echo"]
    assert rule is not None
    world.kernel.run((Route(rule, (name,) * 4096, {}),))


@pytest.mark.parametrize("looks", [0, 3], ids=["let in at once", "let in later"])
def test_who_is_to_stop_serves_on_until_the_watcher_lets_the_others_in(world: World, looks: int) -> None:
    world.apply(fleet(ECHO.replace("= 4", "= 2")))
    world.ejected = {"echo-blue-1": looks}
    serves_alone(world, "echo-blue-2")
    less = fleet(ECHO.replace("= 4", "= 1"))
    kinds = [type(step) for step in world.plan(less)[1].steps]
    assert kinds == [s.WriteJournal, s.WaitReady, s.PointSlots, s.StopInstances, s.DropRules]

    with locks.watcher(world.paths.watch_lock):
        world.apply(less)

    check_is_as_wanted(world, less)


def test_who_is_to_stop_serves_on_if_the_watcher_lets_no_other_in(world: World) -> None:
    world.apply(fleet(ECHO.replace("= 4", "= 2")))
    world.ejected = {"echo-blue-1": 10**9}
    serves_alone(world, "echo-blue-2")
    desired, plan = world.plan(fleet(ECHO.replace("= 4", "= 1")))
    executor = world.executor(desired)

    with locks.watcher(world.paths.watch_lock):
        executor.run(plan.steps)

    assert executor.failed == {"echo-blue-1": "ready, the watcher has not let it in yet"} and not executor.complete
    assert count(world.slots()["echo"]) == {"echo-blue-2": 4096} and world.up("echo-blue-2")
    assert executor.notes == [
        "echo-blue-2 is not wanted any more but serves on: no other instance of its service serves; "
        "run apply again when one does"
    ]


def test_one_that_is_ejected_while_others_serve_is_not_waited_for(world: World) -> None:
    world.apply(fleet(ECHO.replace("= 4", "= 3")))
    world.ejected = {"echo-blue-1": 10**9}
    rule = world.kernel.observe().services["echo"]
    assert rule is not None
    world.kernel.run((Route(rule, ("echo-blue-2", "echo-blue-3") * 2048, {}),))

    kinds = [type(step) for step in steps(world, ECHO.replace("= 4", "= 2"))]

    assert kinds == [s.WriteJournal, s.PointSlots, s.StopInstances, s.DropRules]


def test_a_remote_one_that_is_ejected_is_waited_for_too(world: World) -> None:
    text = ECHO.replace(":7000", "0.0.0.0:7000") + 'remote = ["203.0.113.2:7101"]\n'
    world.apply(fleet(text.replace("= 4", "= 2")))
    serves_alone(world, "echo-blue-2")
    world.ejected = {"echo-blue-1": 2, "echo-remote-1": 5}
    less = fleet(text.replace("= 4", "= 1"))
    waits = [step.names for step in world.plan(less)[1].steps if isinstance(step, s.WaitReady)]
    assert waits == [("echo-blue-1",), ("echo-remote-1",)]

    with locks.watcher(world.paths.watch_lock):
        world.apply(less)

    check_is_as_wanted(world, less)


def test_of_those_that_are_to_be_restarted_none_is_waited_for_before(world: World) -> None:
    world.apply(fleet(ECHO.replace("= 4", "= 3")))
    serves_alone(world, "echo-blue-3")
    world.ejected = {"echo-blue-1": 3, "echo-blue-2": 6}
    changed = fleet(ECHO.replace("= 4", "= 2").replace('"{port}"', '"{port}", "--backlog", "64"'))
    kinds = [type(step) for step in world.plan(changed)[1].steps]
    assert kinds.index(s.RestartInstance) < kinds.index(s.WaitReady)

    with locks.watcher(world.paths.watch_lock):
        world.apply(changed)

    check_is_as_wanted(world, changed)


def test_a_remote_instance_gets_slots_only_when_it_answers(world: World) -> None:
    """It is not started here: the others are not kept waiting for it, and a second apply moves no slot."""
    text = ECHO.replace(":7000", "0.0.0.0:7000")
    with_remote = text + 'remote = ["203.0.113.2:7101"]\n'
    world.apply(fleet(text))
    before, world.doomed = world.slots()["echo"], {"echo-remote-1"}
    seen: list[Table] = []
    for _ in range(2):
        world.apply(fleet(with_remote))
        seen.append(world.slots()["echo"])
        assert {*seen[-1]} == {*before}
        waits = [step for step in steps(world, with_remote) if isinstance(step, s.WaitReady)]
        assert waits == [s.WaitReady(("echo-remote-1",), 5.0)]
    assert seen[0] == seen[1] and sum(old != new for old, new in zip(before, seen[0], strict=True)) <= 819
    world.doomed = set()
    world.apply(fleet(with_remote))
    assert count(world.slots()["echo"])["echo-remote-1"] == 819
    assert words(world, with_remote) == []

    world.doomed = {"echo-remote-1"}
    for _ in range(2):
        world.apply(fleet(with_remote))
        assert "echo-remote-1" not in world.slots()["echo"]
    assert words(world, with_remote)[0] == "wait until echo-remote-1 is ready"


def test_a_changed_command_restarts_one_at_a_time_without_slots(world: World) -> None:
    text = ECHO.replace("= 4", "= 2")
    world.apply(fleet(text))
    assert words(world, text + "environment = { A = '1' }\n") == [
        "point 2,048 of 4,096 slots of echo away from echo-blue-1 (50.0 % of its clients)",
        "restart echo-blue-1 (its command, user or environment changed)",
        "wait until echo-blue-1 is ready",
        "point 4,096 of 4,096 slots of echo away from echo-blue-2 (100.0 % of its clients)",
        "restart echo-blue-2 (its command, user or environment changed)",
        "wait until echo-blue-2 is ready",
        "point 2,048 of 4,096 slots of echo (50.0 % of its clients)",
    ]


def test_a_command_that_does_not_work_stops_the_rolling_restart_at_the_first(world: World) -> None:
    world.apply(fleet(ECHO))
    before = {name: known.text for name, known in world.supervisor.known.items()}
    world.broken = 'A="bad"'

    world.apply(fleet(ECHO + "environment = { A = 'bad' }\n"))

    assert count(world.slots()["echo"]).keys() == {"echo-blue-2", "echo-blue-3", "echo-blue-4"}
    others = {name: known.text for name, known in world.supervisor.known.items() if name != "echo-blue-1"}
    assert others == {name: text for name, text in before.items() if name != "echo-blue-1"}
    world.apply(fleet(ECHO))
    check_is_as_wanted(world, fleet(ECHO))


def test_a_broken_instance_whose_command_was_mended_is_restarted(world: World) -> None:
    world.broken = 'A="bad"'
    world.apply(fleet(ECHO + "environment = { A = 'bad' }\n"))
    assert count(world.slots().get("echo", ())) == {}

    world.apply(fleet(ECHO + "environment = { A = 'good' }\n"))

    check_is_as_wanted(world, fleet(ECHO + "environment = { A = 'good' }\n"))


def test_both_families_in_two_words_are_as_good_as_in_one(world: World) -> None:
    two = ECHO.replace('[":7000"]', '["0.0.0.0:7000", "[::]:7000"]')
    world.apply(fleet(ECHO))
    assert words(world, two) == []


def test_a_release_that_only_the_config_changed_waits_for_a_cutover(world: World) -> None:
    world.apply(fleet(ECHO + 'release = "v1"\n'))
    _, plan = world.plan(fleet(ECHO + 'release = "v2"\n'))
    assert plan.steps == ()
    assert plan.notes == ("echo: release differs: v1 runs, v2 is configured: cutover needed",)


def test_what_is_changed_of_a_service_that_is_down_is_written_once(world: World) -> None:
    world.apply(fleet(ECHO))
    down = replace(world.desired(fleet(ECHO)).journal.services["echo"], down="op since noon")
    world.store.update(lambda journal: journal.with_service("echo", down))
    fewer = ECHO.replace("= 4", "= 3")
    world.apply(fleet(fewer))
    assert words(world, fewer) == []
    assert world.desired(fleet(fewer)).configured["echo"].down == "op since noon"


def test_another_number_in_the_config_ends_what_scale_asked_for_for_good(world: World) -> None:
    world.apply(fleet(ECHO))
    scaled = replace(world.desired(fleet(ECHO)).journal.services["echo"], instances=2, config_instances=4)
    world.store.update(lambda journal: journal.with_service("echo", scaled))
    world.apply(fleet(ECHO))
    assert count(world.slots()["echo"]).keys() == {"echo-blue-1", "echo-blue-2"}
    world.apply(fleet(ECHO.replace("= 4", "= 3")))
    world.apply(fleet(ECHO))
    assert len(count(world.slots()["echo"])) == 4
