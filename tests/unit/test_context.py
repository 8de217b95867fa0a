"""What verbs read before they do anything: the config once, and sockets whose paths the kernel takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.paths import resolve
from portfleet.store.directories import make_directories

ECHO = """
[service.echo]
listen = [":7000"]
command = ["sh", "-c", "exec nc -lk {port}"]
ports = "7100-7107"
instances = 4
"""


def context(home: Path, text: str) -> Context:
    """Return the context of a home with ``text`` as its config."""
    home.mkdir(parents=True)
    (home / "fleet.toml").write_text(text)
    return Context(resolve(home=str(home), config=None))


def test_the_text_that_is_kept_is_the_one_that_was_checked(tmp_path: Path) -> None:
    made = context(tmp_path / "a", ECHO)
    assert made.fleet.services["echo"].instances == 4
    made.paths.config.write_text("not a config")
    assert made.config_text == ECHO.encode()


def test_a_socket_path_of_another_user_counts_with_that_users_directory(tmp_path: Path) -> None:
    room = 107 - len("/run/echo-green-1000.sock") - len(bytes(tmp_path)) - 1
    if room < 1:
        pytest.skip(f"the path of {tmp_path} is too long for any socket below it")
    home = tmp_path / ("h" * room)
    made = context(home, ECHO)
    assert made.fleet.services
    (home / "fleet.toml").write_text(ECHO + 'user = "root"\n')
    with pytest.raises(PortfleetError, match=r"/run/root/echo-green-1000\.sock") as caught:
        _ = Context(made.paths).fleet
    assert caught.value.code is Exit.USAGE


def test_what_was_applied_is_known_without_the_file(tmp_path: Path) -> None:
    found = resolve(home=str(tmp_path), config=None)
    make_directories(found)
    found.applied.write_text(ECHO)
    context = Context(found)
    assert not context.unchanged
    assert context.serving_fleet == context.applied_fleet and list(context.applied_fleet.services) == ["echo"]
