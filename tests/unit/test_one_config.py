"""An operation goes by one config: how a colour is started goes with its release, for cutovers and for `apply`."""

from __future__ import annotations

import pytest

from portfleet.core.derive import carried, make_desired
from portfleet.core.errors import PortfleetError
from portfleet.core.journal import Journal, from_json, to_json
from portfleet.core.records import ColourRecord
from support.fake_operated import ECHO, Box
from support.fleets import PATHS, fleet

V2 = ECHO.replace('release = "v1"', 'release = "v2"').replace('{ RELEASE = "{release}" }', '{ MODE = "new" }')
V2 = V2.replace('"--port", "{port}"]', '"--port", "{port}", "--new"]')


def started(box: Box, name: str) -> tuple[bool, bool]:
    """Return whether an instance runs with the new command and with the new environment."""
    text = box.supervisor.known[f"echo-{name}"].text
    return "--new" in text, 'MODE="new"' in text


def test_a_cutover_starts_the_new_colour_by_the_file_and_the_old_one_stays(box: Box) -> None:
    box.paths.config.write_text(V2)
    assert box.operate("cutover", "echo").ok
    assert started(box, "green-1") == (True, True) and started(box, "blue-1") == (False, False)
    assert box.operate("rollback", "echo").ok
    assert started(box, "blue-1") == (False, False) and box.journal.services["echo"].live == "blue"


def test_a_stopped_colour_is_rolled_back_to_as_it_was_started(box: Box) -> None:
    box.paths.config.write_text(V2)
    box.operate("cutover", "echo", "--keep", "0")
    box.operate("rollback", "echo")
    assert started(box, "blue-1") == (False, False)


def test_the_applied_config_is_used_if_that_is_asked_for(box: Box) -> None:
    box.paths.config.write_text(V2)
    box.operate("cutover", "echo", "--applied", "--release", "v3")
    assert started(box, "green-1") == (False, False)


def test_another_command_for_the_same_release_is_not_already_there(box: Box) -> None:
    box.paths.config.write_text(V2.replace('release = "v2"', 'release = "v1"'))
    assert box.operate("cutover", "echo").ok and started(box, "green-1") == (True, True)


@pytest.mark.parametrize(("old", "new"), [('"7100-7109"', '"7200-7209"'), ("instances = 3", "instances = 4")])
def test_what_both_colours_share_is_refused(box: Box, old: str, new: str) -> None:
    box.paths.config.write_text(V2.replace(old, new))
    with pytest.raises(PortfleetError, match="which both colours share"):
        box.command("cutover", "echo")
    assert box.log == []


def test_apply_leaves_what_waits_for_a_cutover_and_starts_the_live_colour_anew_otherwise() -> None:
    before = fleet(ECHO)
    journal = make_desired(before, Journal(), PATHS).journal
    waits = make_desired(fleet(V2), carried(fleet(V2), journal, before), PATHS)
    assert "--new" not in waits.programs["echo-blue-1"].command
    assert waits.configured["echo"].notes == (
        "release differs: v1 runs, v2 is configured: cutover needed",
        "command, environment differ: what runs keeps its own until a cutover",
    )
    same = V2.replace('release = "v2"', 'release = "v1"')
    now = make_desired(fleet(same), carried(fleet(same), journal, before), PATHS)
    assert "--new" in now.programs["echo-blue-1"].command and now.configured["echo"].notes == ()


def test_a_release_in_a_service_that_began_without_one_waits_for_a_cutover() -> None:
    bare = ECHO.replace('release = "v1"\n', "").replace('environment = { RELEASE = "{release}" }\n', "")
    before, after = fleet(bare), fleet(ECHO.replace('"portfleet-daemon"', '"{release}/start.sh"'))
    journal = make_desired(before, Journal(), PATHS).journal
    assert make_desired(after, carried(after, journal, before), PATHS).programs["echo-blue-1"].command[0] == (
        "portfleet-daemon"
    )


def test_apply_leaves_the_idle_colour_what_a_rollback_returns_to() -> None:
    before, after = fleet(ECHO), fleet(V2.replace('release = "v2"', 'release = "v1"'))
    journal = make_desired(before, Journal(), PATHS).journal
    record = journal.services["echo"].with_colour("green", ColourRecord("v0"))
    then = carried(after, journal.with_service("echo", record), before)
    assert then.services["echo"].colours["green"].launch == before.services["echo"].launch
    assert from_json(to_json(then)) == then
