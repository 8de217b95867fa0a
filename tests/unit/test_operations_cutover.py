"""cutover and rollback: nothing changes for clients until all are ready; then all slots, then connections."""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portfleet.core.changes import Route
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Colour
from portfleet.core.observed import ObservedInstance
from portfleet.core.records import ColourRecord
from portfleet.core.status import DaemonState, Status
from portfleet.core.work.cutover import Cutover
from portfleet.operations.task import Task
from support.fake_kills import Make, cancelled_at, killed_at_each, same, undisturbed
from support.fake_operated import ECHO, REDIS, Box

BLUE, GREEN = "blue-1 86, blue-2 85, blue-3 85", "green-1 86, green-2 85, green-3 85"
WORDS = ("cutover", "echo", "--release", "v2")
STARTS = ["start green-1", "start green-2", "start green-3"]
THREE = {"blue-1": 5, "blue-2": 7, "blue-3": 3}


def colours(box: Box) -> Mapping[Colour, ColourRecord]:
    return box.journal.services["echo"].colours


def test_all_slots_in_one_transaction_then_the_connections_member_to_member(box: Box) -> None:
    done = box.operate(*WORDS)
    assert box.log == [
        "[begin]", *STARTS, "[switch]",
        "1 from blue-1 to green-1", "1 from blue-2 to green-2", "1 from blue-3 to green-3", f"slots {GREEN}",
        "[moving]", "4 from blue-1 to green-1", "6 from blue-2 to green-2", "2 from blue-3 to green-3", "[keeping]",
    ]  # fmt: skip
    assert done.outcome.startswith("echo is live on green, release v2; 15 connections were handed off (ready ")
    assert done.release == "v2" and box.journal.services["echo"].live == "green"
    assert colours(box)["blue"].keep_until == "2026-01-31T13:00:00Z" and "blue-1" in box.processes()


def test_until_all_are_ready_nothing_changes_for_clients(box: Box) -> None:
    box.fake.slow["echo-green-3"] = 100

    def at(name: str) -> None:
        if name == "cutover switch":
            assert box.slots() == BLUE and box.connections() == THREE and box.clock.slept > 4.9

    box.at = at
    assert box.operate(*WORDS).ok


def test_one_that_does_not_become_ready_is_told_and_all_of_it_goes(box: Box) -> None:
    box.fake.broken = "RELEASE"
    (box.paths.log / "echo-green-1.log").write_text("the new release has a bug\n")
    done = box.operate(*WORDS)
    assert (done.ok, done.code, done.stays) == (False, Exit.TIMEOUT, False)
    assert done.outcome == (
        "3 of 3 instances of the new release did not become ready, nothing changed for clients; echo-green-1: doomed; "
        "its last words: the new release has a bug; blue serves"
    )
    assert (box.slots(), box.processes(), box.connections()) == (BLUE, "blue-1, blue-2, blue-3", THREE)
    assert "green" not in colours(box) and box.lost == {}


def test_with_keep_0_the_old_colour_is_stopped_when_it_is_empty(box: Box) -> None:
    box.operate(*WORDS, "--keep", "0")
    assert box.log[-4:] == ["[keeping]", "end blue-1", "end blue-2", "end blue-3"] and box.lost == {}
    assert colours(box)["blue"].stopped and colours(box)["blue"].release == "v1"


def test_by_drain_the_old_colours_connections_end_by_the_services_policy(box: Box) -> None:
    done = box.operate(*WORDS, "--drain")
    assert "connections of blue: 0 ended, 15 were closed" in done.outcome and box.daemons.ended == 15 and box.lost == {}


def test_a_member_that_is_drained_leaves_its_connections_to_all(box: Box) -> None:
    box.command(*WORDS)

    def at(name: str) -> None:
        if name == "cutover moving":
            box.eject("green-2")
            box.kill()

    box.at = at
    assert box.finish().ok
    assert sum(box.connections().values()) == 15 and box.connections()["green-2"] == 1  # which it was tried with


def test_a_release_that_hangs_on_its_first_connection_is_rolled_back(box: Box) -> None:
    def at(name: str) -> None:
        if name == "cutover switch":
            box.daemons.silent = {"echo-green-2"}

    box.at = at
    done = box.operate(*WORDS)
    assert (done.ok, done.code) == (False, Exit.FAILED)
    assert done.outcome == (
        "rolled back: echo-green-2 of the new release does not answer; blue serves; 2 connections were handed off; "
        "echo-green-2 did not answer and lost what had moved there"
    )
    assert box.slots() == BLUE and box.lost == {"echo-green-2": 1} and sum(box.connections().values()) == 14


def test_a_release_that_ends_on_its_first_connection_is_rolled_back_with_its_last_words(box: Box) -> None:
    (box.paths.log / "echo-green-2.log").write_text("KeyError: 'out of luck'\n")

    def at(name: str) -> None:
        if name == "cutover switch":
            box.supervisor.known["echo-green-2"].state = "FATAL"

    box.at = at
    done = box.operate(*WORDS)
    assert not done.ok and done.outcome.startswith(
        "rolled back: echo-green-2 of the new release does not run; its last words: KeyError: 'out of luck'; "
    )
    assert (box.slots(), box.processes()) == (BLUE, "blue-1, blue-2, blue-3")


def test_connections_that_the_new_release_refuses_stay_with_the_old_and_it_is_kept_for_them(box: Box) -> None:
    box.daemons.refusing = {f"echo-green-{number}": "another framing" for number in (1, 2, 3)}
    done = box.operate(*WORDS, "--keep", "0")
    assert not done.ok and done.outcome.endswith("; those stay with blue until they end, then it can be stopped")
    assert box.slots() == GREEN and box.connections() == THREE and not colours(box)["blue"].stopped


@pytest.mark.parametrize("words", [WORDS, (*WORDS, "--keep", "0"), (*WORDS, "--drain", "--keep", "0")])
def test_killed_at_any_point_it_is_resumed(again: Make, words: tuple[str, ...]) -> None:
    whole, seen = undisturbed(again, *words), []
    for point, box, done in killed_at_each(again, *words):
        assert done.ok and "resumed at" in done.outcome and same(box, whole) and box.lost == {}, (point, done)
        seen.append(point.removeprefix("cutover "))
    assert seen == ["begin", "switch", "switch: changed", "moving", "keeping"] + (
        ["keeping", "keeping: changed"] if "--keep" in words else ["keeping: changed"]
    )


def test_slots_go_over_in_parts_and_killed_between_them_it_is_resumed_or_cancelled(again: Make) -> None:
    def in_parts() -> Box:
        box = again()
        box.kernel.traits = replace(box.kernel.traits, slots_unnoticed=100)
        return box

    whole, seen = undisturbed(in_parts, *WORDS), []
    assert [line for line in whole.log if line.startswith("slots ")][-1] == f"slots {GREEN}" and whole.slots() == GREEN
    for point, box, done in killed_at_each(in_parts, *WORDS):
        assert done.ok and "resumed at" in done.outcome and box.slots() == GREEN and box.lost == {}, (point, done)
        seen.append(point)
    assert seen.count("cutover switch: some slots") == 2
    box, done = cancelled_at(in_parts, "cutover switch: some slots", *WORDS)
    assert done.outcome.startswith("cancelled; blue serves")
    assert (box.slots(), box.connections(), box.lost) == (BLUE, THREE, {})


def test_between_parts_a_lock_is_waited_for_and_nothing_is_done_again(box: Box) -> None:
    box.kernel.traits = replace(box.kernel.traits, slots_unnoticed=40)

    def at(name: str) -> None:
        if name == "cutover switch: some slots" and not box.told.getvalue().count("waits-for-lock"):
            held = box.paths.table_lock.open("a")
            fcntl.flock(held, fcntl.LOCK_EX)
            box.later(0.3, held.close)

    box.at = at
    done = box.operate(*WORDS)
    assert "15 connections were handed off" in done.outcome and box.slots() == GREEN and box.lost == {}
    assert "waits-for-lock" in box.told.getvalue() and box.log.count("[switch]") == 1
    assert [line for line in box.log if line.startswith("1 from")] == [
        "1 from blue-1 to green-1", "1 from blue-2 to green-2", "1 from blue-3 to green-3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("point", "at_once"),
    [
        ("cutover switch: changed", 4096),
        ("cutover switch: some slots", 40),
        ("cutover moving", 40),
        ("cutover keeping", 40),
    ],
)
@pytest.mark.parametrize("words", [(*WORDS, "--keep", "0"), (*WORDS, "--drain", "--keep", "0")])
def test_a_release_that_ends_on_its_first_clients_is_rolled_back(
    box: Box, words: tuple[str, ...], point: str, at_once: int
) -> None:
    box.kernel.traits = replace(box.kernel.traits, slots_unnoticed=at_once)

    def at(name: str) -> None:
        if name == point:
            box.at = lambda _: None
            box.eject("green-1", "green-2", "green-3")

    box.at = at
    done = box.operate(*words)
    assert (done.ok, box.slots(), box.processes(), box.lost) == (False, BLUE, "blue-1, blue-2, blue-3", {}), done
    assert "no instance of the new release serves any more; echo-green-1: hangs" in done.outcome
    assert "blue serves" in done.outcome and box.journal.services["echo"].live == "blue"


def test_a_release_that_is_dead_is_rolled_back_though_an_instance_on_another_box_serves(directory: Path) -> None:
    text = ECHO.replace("slots =", 'remote = ["192.0.2.9:7100"]\nslots =').replace('":7000"', '"0.0.0.0:7000"')
    box = Box(directory, text, blue_1=5)

    def at(name: str) -> None:
        if name == "cutover moving":
            box.at = lambda _: None
            box.eject("green-1", "green-2", "green-3")

    box.at = at
    done = box.operate(*WORDS, "--keep", "0")
    assert not done.ok and "blue serves" in done.outcome and box.processes() == "blue-1, blue-2, blue-3", done


def test_without_an_old_release_that_is_ready_the_new_one_goes_on(box: Box) -> None:
    def at(name: str) -> None:
        if name == "cutover moving":
            box.at = lambda _: None
            for number, state in enumerate(("FATAL", "STARTING", "FATAL"), start=1):
                box.supervisor.known[f"echo-blue-{number}"].state = state
            box.fake.doomed.add("echo-blue-2")  # it ends soon after each start
            box.command("cancel", "echo")

    box.at = at
    done = box.operate(*WORDS)
    words = "cancelled; echo is live on green, release v2: no instance of blue is ready"
    assert (done.ok, done.outcome) == (False, words)
    assert (box.slots(), box.lost, box.journal.services["echo"].live) == (GREEN, {}, "green")
    assert colours(box)["blue"].keep_until and not colours(box)["green"].stopped


def test_a_canary_that_is_all_that_serves_goes_on_until_the_old_release_does(box: Box) -> None:
    def at(name: str) -> None:
        if name == "cutover canary: changed" and box.slots() == BLUE:
            box.later(2, lambda: box.eject("blue-1", "blue-2", "blue-3"))
            box.later(3, lambda: print(box.command("cancel", "echo")))

    box.at = at
    done = box.operate(*WORDS, "--canary", "50%", "--every", "60s")
    assert done.outcome == "cancelled; no instance of blue serves: green goes on until one does, then it is stopped"
    assert "green-1" in box.slots() and "green-1" in box.processes() and box.lost == {}
    assert colours(box)["green"].keep_until == box.clock.now()


def test_slots_go_back_to_those_that_were_told_to_drain(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(name: str) -> None:
        if name == "cutover moving":
            box.at = lambda _: None
            draining = ObservedInstance("RUNNING", ready=False, status=Status(DaemonState.DRAINING, 5))
            monkeypatch.setattr(box.fake, "seen", lambda _: draining)
            box.command("cancel", "echo")

    box.at = at
    assert box.operate(*WORDS, "--drain").outcome.startswith("cancelled; blue serves") and box.slots() == BLUE


def test_slots_go_back_while_supervisord_is_away(box: Box) -> None:
    seen = list[str]()

    def at(name: str) -> None:
        if name == "cutover moving":
            box.at = lambda _: None
            box.command("cancel", "echo")
            box.supervisor.away = True
            box.later(1, lambda: seen.append(box.slots()))
            box.later(20, lambda: setattr(box.supervisor, "away", False))

    box.at = at
    assert box.operate(*WORDS).outcome.startswith("cancelled; blue serves") and seen == [BLUE]


def test_resumed_with_instances_that_were_not_looked_at_yet_it_goes_on(box: Box) -> None:
    box.command(*WORDS)

    def at(name: str) -> None:
        if name == "cutover moving":
            box.at = lambda _: None
            rule = box.kernel.observe().services["echo"]
            assert rule is not None
            box.kernel.run((Route(rule, (None,) * 256, {}),))  # another program's flush, at the same moment
            box.kill()

    box.at = at
    assert "rolled back" not in box.finish().outcome and box.journal.services["echo"].live == "green"


def test_an_idle_colour_that_has_slots_is_not_replaced(box: Box) -> None:
    box.operate(*WORDS, "--drain")
    box.daemons.connections.clear()
    rule, slots = box.kernel.observe().services["echo"], box.kernel.read_slots("echo")
    assert rule is not None
    box.kernel.run((Route(rule, ("echo-blue-1", *slots[1:]), {}),))
    with pytest.raises(PortfleetError, match=r"blue still has slots \(echo-blue-1\): no instance of green serves"):
        box.command("cutover", "echo", "--release", "v3")
    assert box.journal.operations == ()


def test_killed_around_each_write_of_the_journal_it_is_resumed(again: Make) -> None:
    whole = undisturbed(again, *WORDS)
    for point, box, done in killed_at_each(again, *WORDS, files=True):
        assert done.ok and same(box, whole) and box.lost == {}, (point, done)


@pytest.mark.parametrize("point", ["cutover begin", "cutover switch", "cutover moving"])
def test_cancelled_the_old_colour_serves_and_nothing_is_lost(again: Make, point: str) -> None:
    def slow() -> Box:
        box = again()
        box.fake.slow["echo-green-1"] = 10
        return box

    box, done = cancelled_at(slow, point, *WORDS)
    assert done.outcome.startswith("cancelled; blue serves") and not done.stays
    assert (box.slots(), box.processes(), box.lost) == (BLUE, "blue-1, blue-2, blue-3", {})
    assert box.connections() == THREE and box.journal.services["echo"].config_release == "v1"


def test_killed_while_it_undoes_it_goes_on_undoing(again: Make) -> None:
    def failing() -> Box:
        box = again()
        box.fake.broken = "green-2"
        return box

    for point in ("cutover undo", "cutover begin: changed", "cutover stopping", "cutover stopping: changed"):
        box = failing()

        def at(name: str, box: Box = box, point: str = point) -> None:
            if name == point and not box.generation:
                box.kill()

        box.at = at
        done = box.operate(*WORDS)
        assert box.generation == 1 and done.outcome.endswith(
            "blue serves (resumed at 'undoing' after the watcher had been away)"
        ), (point, done)
        assert (box.slots(), box.processes(), box.connections()) == (BLUE, "blue-1, blue-2, blue-3", THREE)


def test_an_undo_never_drops_connections_that_do_not_go_back(box: Box) -> None:
    def at(name: str) -> None:
        if name == "cutover moving":
            box.at = lambda _: None
            box.daemons.refusing = {f"echo-blue-{number}": "no room" for number in (1, 2, 3)}
            box.command("cancel", "echo")

    box.at = at
    done = box.operate(*WORDS)
    assert done.outcome == (
        "cancelled; blue serves; 0 connections were handed off, 15 could not be (no room); they stay with green until "
        "they end"
    )
    assert box.slots() == BLUE and sum(box.connections().values()) == 15 and box.lost == {}
    assert box.processes() == "blue-1, blue-2, blue-3, green-1, green-2, green-3"
    assert colours(box)["green"].keep_until == box.journal.history[-1].at


def test_cancelled_after_the_old_colour_was_stopped_it_is_done(again: Make) -> None:
    box, done = cancelled_at(again, "cutover keeping: changed", *WORDS, "--keep", "0")
    assert done.ok and done.outcome.startswith("echo is live on green")
    assert box.processes() == "green-1, green-2, green-3" and box.lost == {}


def test_a_rollback_hands_everything_back(box: Box) -> None:
    box.operate(*WORDS)
    box.log.clear()
    done = box.operate("rollback", "echo")
    assert done.verb == "rollback" and done.outcome.startswith("echo is live on blue, release v1; 15 connections")
    assert not [entry for entry in box.log if entry.startswith(("start", "end"))], "what is kept is not restarted"
    assert box.slots() == BLUE and box.connections() == THREE


def test_a_rollback_starts_what_was_stopped(box: Box) -> None:
    box.operate(*WORDS, "--keep", "0")
    assert box.operate("rollback", "echo").ok and box.slots() == BLUE
    assert 'RELEASE="v1"' in box.supervisor.known["echo-blue-1"].text


def test_a_rollback_killed_at_any_point_is_resumed(again: Make) -> None:
    def cut_over() -> Box:
        box = again()
        box.operate(*WORDS)
        return box

    whole = undisturbed(cut_over, "rollback", "echo")
    for point, box, done in killed_at_each(cut_over, "rollback", "echo"):
        assert done.ok and same(box, whole) and box.lost == {}, (point, done)


def test_what_was_asked_of_the_idle_colour_comes_back_with_it(box: Box) -> None:
    box.operate("drain", "echo/2", "--handoff")
    box.operate(*WORDS)
    assert box.wanted() == {"blue-2": "drained"}
    box.operate("cutover", "echo", "--release", "v3")
    assert box.wanted() == {}, "a new release starts all"
    box.fake.broken = "v4"
    box.operate("drain", "echo/3", "--handoff")
    box.operate("rollback", "echo")
    assert not box.operate("cutover", "echo", "--release", "v4").ok
    assert box.wanted() == {"blue-3": "drained"}, "undone, it is asked again"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rollback", "echo"), "nothing to go back to"),
        (("rollback", "echo", "--to", "9"), "9"),
        (("cutover", "echo", "--release", "/srv/none"), "does not exist"),
        (("cutover", "echo", "--command", "sleep 1"), "{port}"),
    ],
)
def test_refused_it_changes_nothing(box: Box, words: tuple[str, ...], said: str) -> None:
    before = box.journal
    with pytest.raises(PortfleetError, match=said) as refused:
        box.command(*words)
    assert refused.value.code is Exit.USAGE and box.journal == before


def test_an_idle_colour_with_connections_is_not_replaced(box: Box) -> None:
    box.operate(*WORDS)
    box.daemons.connections["echo-blue-2"] = 4
    with pytest.raises(PortfleetError, match=r"blue still has connections \(echo-blue-2: 4\)"):
        box.command("cutover", "echo", "--release", "v3")


def test_what_is_live_already_is_done(box: Box) -> None:
    assert "blue already runs v1" in box.command("cutover", "echo")
    assert box.journal.operations == ()


def test_a_daemon_that_cannot_hand_off_drains_by_default(directory: Path) -> None:
    box = Box(directory, REDIS, blue_1=5)
    box.command(*WORDS)
    work = box.journal.operations[0].work
    assert isinstance(work, Cutover) and not work.handoff
    assert "connections of blue: 0 ended, 5 were reset" in box.finish().outcome
    with pytest.raises(PortfleetError, match="cannot hand off"):
        box.command("cutover", "echo", "--release", "v3", "--handoff")


def test_releases_older_than_those_kept_are_named(directory: Path, tmp_path: Path) -> None:
    for release in ("v1", "v2", "v3", "v4"):
        (tmp_path / release).mkdir()
    box = Box(directory, ECHO.replace('"v1"', f'"{tmp_path}/v1"').replace("slots", "keep_releases = 2\nslots"))
    for release in ("v2", "v3", "v4"):
        done = box.operate("cutover", "echo", "--release", f"{tmp_path}/{release}")
    assert done.outcome.endswith(f"; older than keep_releases, can be removed: {tmp_path}/v2")


def test_a_second_rollback_does_not_go_forward_unless_that_is_said(box: Box) -> None:
    box.operate(*WORDS)
    with pytest.raises(PortfleetError, match="was not rolled back"):
        box.command("rollback", "echo", "--forward")
    box.operate("rollback", "echo")
    with pytest.raises(PortfleetError, match="would go forward again to release v2") as refused:
        box.command("rollback", "echo")
    assert refused.value.hint == "if that is meant: portfleet rollback echo --forward"
    done = box.operate("rollback", "echo", "--forward")
    assert done.verb == "cutover" and done.release == "v2" and box.lost == {}
    assert box.operate("rollback", "echo").release == "v1"


@pytest.mark.parametrize("keep", ["0", "1h"])
def test_without_a_rate_connections_that_cannot_be_handed_off_stay(tmp_path: Path, keep: str) -> None:
    box = Box(tmp_path, REDIS.replace("rate = 10\n", ""), blue_1=5)
    done = box.operate("cutover", "echo", "--release", "v2", "--keep", keep)
    assert done.ok and "5 connections stay with blue until closed" in done.outcome
    assert box.connections() == {"blue-1": 5} and box.daemons.ended == 0 and box.lost == {}
    back = box.operate("rollback", "echo")
    assert back.ok and box.connections() == {"blue-1": 5} and box.lost == {}


def test_a_release_must_live_on_before_it_gets_clients(directory: Path) -> None:
    box = Box(directory, ECHO.replace('min_ready = "off"', 'min_ready = "5s"'), blue_1=5)
    before = box.clock.slept
    assert box.operate(*WORDS).ok and 5 <= box.clock.slept - before < 7


@pytest.mark.parametrize("after", [0, 2])
def test_one_that_ends_soon_after_it_was_ready_is_found_out_before_a_client_meets_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    """After 2 s of ``min_ready``, and before that is watched for."""
    box = Box(directory, ECHO.replace('min_ready = "off"', 'min_ready = "5s"'), blue_1=5)

    def ends() -> None:
        box.supervisor.known["echo-green-2"].pid += 100

    async def live_on(task: Task[Any], names: Collection[str]) -> dict[str, str]:
        ends()
        return await real(task, names)

    real = Task.live_on
    if after:
        box.later(after, ends)
    else:
        monkeypatch.setattr(Task, "live_on", live_on)
    done = box.operate(*WORDS)
    assert done.code == Exit.TIMEOUT and done.outcome.startswith(
        "nothing changed for clients; echo-green-2 ended within 5 s"
    )
    assert (box.slots(), box.processes(), box.connections()) == (BLUE, "blue-1, blue-2, blue-3", {"blue-1": 5})
    assert not [entry for entry in box.log if entry.startswith("slots")]
