"""Programs that run by fork in a box are what they would be with an interpreter of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from support import own_status, warm
from support.fleet_box import ECHO, HOME, ORDINARY
from support.rights import needs_another_user
from support.sandbox import Box, BoxError, make_box

TOOL = "portfleet.__main__"


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    made = make_box("host")
    yield made
    made.close()


def test_exit_status_streams_and_arguments_are_its_own(box: Box) -> None:
    assert warm.run(box, TOOL, "--version").stdout.startswith("portfleet ")
    wrong = warm.run(box, TOOL, "nope", check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "") and "there is no verb 'nope'" in wrong.stderr
    with pytest.raises(BoxError, match="exit 2"):
        warm.run(box, TOOL, "nope")
    assert warm.run(box, TOOL, "--version", env={"LANG": "C"}).returncode == 0, "one that failed is the last of itself"


def test_it_is_in_the_box_with_the_environment_it_is_given(box: Box) -> None:
    said = warm.run(box, TOOL, "check", check=False, env={"PORTFLEET_HOME": home(box, "[service.echo")})
    assert said.returncode == 2 and "/run/pf/fleet.toml" in said.stderr and "not TOML" in said.stderr


def test_what_lasts_too_long_is_ended(box: Box) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        warm.run(box, TOOL, "--home", home(box, ECHO), "watch", timeout=1)
    assert "cannot-look" in str(caught.value.stdout), "nothing has been applied yet"


@needs_another_user
def test_an_ordinary_user_has_no_right_of_roots_and_can_get_none(box: Box) -> None:
    status = warm.run(box, "support.own_status", ordinary=True).stdout
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert f"Cap{kind}:\t{'0' * 16}\n" in status
    assert status == box.run(*ORDINARY, sys.executable, own_status.__file__).stdout


def home(box: Box, config: str) -> str:
    """Write fleet.toml and give its folder."""
    box.run("sh", "-c", f"mkdir -p {HOME} && cat > {HOME}/fleet.toml", text=config)
    return HOME
