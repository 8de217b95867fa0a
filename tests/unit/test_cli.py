"""The command line: help, usage errors, exit codes, and that every verb keeps the same manners."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from portfleet import __version__, commands
from portfleet.__main__ import main, parse
from portfleet.commands import OPERATIONS, OTHER_WORDS, SUPERVISED, TOLD, VERBS, WITHOUT_JSON
from portfleet.core.errors import Exit


def run(*words: str) -> tuple[int, str, str]:
    """Run the command line in this process and give (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def _examples(verb: str) -> tuple[str, ...]:
    found: tuple[str, ...] = importlib.import_module(f"portfleet.commands.{verb}").EXAMPLES
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    command = importlib.import_module(f"portfleet.commands.{verb}")
    code, out, err = run(verb, "--help")

    assert (code, err) == (0, "")
    assert out.startswith(f"usage: portfleet {verb}") and "--home DIR" in out and "--config FILE" in out
    assert " ".join((command.__doc__ or "").strip().split("\n\n")[0].split()) in " ".join(out.split())
    assert all(f"  {line}\n" in out for line in command.EXAMPLES)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("columns", [80, 120])
def test_the_help_fits_the_terminal(verb: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    plain = run(verb, "--help")[1].split("\nexamples:\n")[0]
    assert max(map(len, (*plain.splitlines(), *run("--help")[1].splitlines()))) <= columns


@pytest.mark.parametrize("line", [line for verb in VERBS for line in _examples(verb)])
def test_every_example_is_one_the_tool_takes(line: str) -> None:
    words = shlex.split(re.split(r" (?:&&|\|\|?|>) ", line)[0], comments=True)
    assert words[0] in ("portfleet", "systemctl")
    if words[0] == "portfleet":
        assert parse(words[1:])[1] is not None


def test_help_is_a_word_too() -> None:
    assert run("help") == run("--help")
    assert run("help", "drain") == run("drain", "--help")
    assert run("help", "nope")[0] == 2


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("reload",), "portfleet apply"),
        (("ps",), "portfleet status"),
        (("stop",), "portfleet down"),
        (("--home", "/srv", "stauts"), "portfleet status"),
        (("cutovr", "echo"), "portfleet cutover"),
        (("xyzzy",), "portfleet help"),
    ],
)
def test_a_word_that_is_no_verb_gets_the_command_that_was_meant(words: tuple[str, ...], hint: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "") and f"\nhint: {hint}\n" in err


def test_what_people_try_leads_to_commands_there_are() -> None:
    assert not OTHER_WORDS.keys() & VERBS.keys()
    assert {words.split()[0] for many in OTHER_WORDS.values() for words in many} <= VERBS.keys() | {"--version"}


def test_a_mistyped_option_gets_the_one_that_was_meant() -> None:
    assert run("cutover", "echo", "--relase", "v2")[2].endswith("; did you mean --release?\n")


def test_there_is_one_file_per_verb_and_one_verb_per_file() -> None:
    files = {path.stem for path in Path(commands.__file__).parent.glob("[a-z]*.py")}
    assert files == set(VERBS)


def test_help_names_every_verb_and_every_exit_code() -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"    {verb} " in out and words.split(",")[0][:20] in out for verb, words in VERBS.items())
    assert all(str(int(code)) in out.split("exit codes:")[1] for code in Exit)


def test_verbs_in_the_docs_are_verbs() -> None:
    """A command line in the README that no verb answers is a broken promise."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    named = {line.split()[0] for line in readme.split("portfleet ")[1:] if line.split()}
    shown = {word for word in named if word.isalpha() and f"    portfleet {word}" in readme}
    assert shown <= set(VERBS) | {"VERB"}


def test_every_verb_that_changes_says_first_that_no_watcher_works() -> None:
    """But for `up`, which starts it, and `down`, which ends it."""
    dry = {verb for verb in VERBS if "--dry-run" in run(verb, "--help")[1]}
    assert dry | {"cancel"} == OPERATIONS | {"apply", "pin", "unpin", "deny", "undeny", "import"}
    assert OPERATIONS < TOLD < VERBS.keys() and VERBS.keys() > SUPERVISED
    assert {"plan", "apply", "up", "down"} | OPERATIONS - {
        "drain",
        "migrate",
        "evacuate",
        "rebalance",
        "cancel",
    } == SUPERVISED


def test_the_help_tells_each_exit_code_of_status() -> None:
    said = run("status", "--help")[1]
    for code in (Exit.DONE, Exit.DEGRADED, Exit.UNWATCHED, Exit.UNSERVED):
        assert f"\n  {code:d}  " in said


def test_without_a_verb_help_is_shown_and_it_is_a_usage_error() -> None:
    code, out, _ = run()
    assert code == 2 and out.startswith("usage: portfleet")


@pytest.mark.parametrize("words", [("nope",), ("status", "--nope"), ("explain", "echo"), ("--home",), ("logs",)])
def test_a_usage_error_is_2(words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "usage: " in err


@pytest.mark.parametrize("verb", sorted(WITHOUT_JSON))
def test_a_verb_without_json_says_so_wherever_the_flag_stands(verb: str) -> None:
    for words in ((verb, "--json"), ("--json", verb), ("--home", "/srv", "--json", verb)):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert err.endswith(f"error: {verb} prints no JSON: leave out --json\n")
    assert "--json" not in run(verb, "--help")[1].replace("--json-logs", "")


@pytest.mark.parametrize("words", [("pin", "echo", "198.18.0.7", "2"), ("unpin", "echo", "198.18.0.7")])
def test_a_pin_is_done_when_the_command_returns_and_there_is_nothing_to_wait_for(words: tuple[str, ...]) -> None:
    for flag in ("--wait", "--no-wait"):
        code, out, err = run(*words, flag)
        assert (code, out) == (2, "") and err.endswith(f"error: unrecognized arguments: {flag}\n")
    options, _ = parse([*words, "--dry-run", "--why", "busy", "--json"])
    assert options.dry_run and options.why == "busy"


def test_up_in_the_foreground_prints_no_json(tmp_path: Path) -> None:
    code, out, err = run("--home", str(tmp_path), "up", "--foreground", "--json")
    assert (code, out) == (2, "") and "hint: portfleet up --foreground" in err


def test_check_prints_the_schema_without_a_config(tmp_path: Path) -> None:
    code, out, err = run("check", "--schema", "--home", str(tmp_path))
    assert (code, err) == (0, "") and json.loads(out)["$schema"].endswith("draft/2020-12/schema")


def test_the_version() -> None:
    assert run("--version") == (0, f"portfleet {__version__}\n", "")


def test_global_flags_count_before_and_after_the_verb(tmp_path: Path) -> None:
    said = [run("--home", str(tmp_path), "check"), run("check", "--home", str(tmp_path))]
    assert said[0] == said[1]
    assert said[0][0] == 2 and f"{tmp_path}/fleet.toml" in said[0][2]


def test_the_home_of_the_environment_counts_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFLEET_HOME", str(tmp_path / "env"))
    assert f"{tmp_path}/env/fleet.toml" in run("check")[2]
    assert f"{tmp_path}/own/fleet.toml" in run("check", "--home", f"{tmp_path}/own")[2]
    (tmp_path / "other.toml").write_text("x = 1")
    assert f"{tmp_path}/other.toml" in run("check", "--config", f"{tmp_path}/other.toml")[2]


def test_an_operators_mistake_is_no_traceback(tmp_path: Path) -> None:
    for words in (("status",), ("plan",), ("apply",), ("up",), ("down",), ("explain", "echo", "x"), ("lock",)):
        code, _, err = run("--home", str(tmp_path), *words)
        assert code == 2 and "hint: " in err and "Traceback" not in err
    code, _, err = run("logs", "nope")
    assert code == 2 and "neither a service nor an instance" in err
    code, _, err = run("--home", "/srv/a b", "check")
    assert code == 2 and "choose a --home" in err


def test_init_writes_once_and_what_it_writes_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    assert run("init", str(path))[0] == 0
    code, out, _ = run("check", "--home", str(tmp_path))
    assert code == 0 and out.endswith("no problem found\n")
    code, _, err = run("init", str(path))
    assert code == 1 and "exists already" in err and "hint: " in err
    assert run("init", "-")[1] == path.read_text()


def test_init_makes_the_folder_of_the_config(tmp_path: Path) -> None:
    home = tmp_path / "some" / "home"
    assert run("--home", str(home), "init")[0] == 0
    assert (home / "fleet.toml").read_text() == run("init", "-")[1]
    assert run("--home", str(home), "init")[0] == 1


def test_unit_names_this_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTFLEET_HOME", raising=False)
    monkeypatch.setattr(sys, "executable", "/srv/venv/bin/python")
    code, out, _ = run("unit")
    assert code == 0 and "\nExecStart=/srv/venv/bin/portfleet up --foreground\n" in out and "/opt/" not in out
    monkeypatch.setattr(sys, "executable", "/home/me/.local/pipx/venvs/portfleet/bin/python")
    code, out, err = run("unit")
    assert (code, out) == (2, "") and "hint: python3 -m venv /opt/portfleet" in err
    assert run("unit", "--home", "/srv/x")[0] == 2


def test_check_gives_json_for_programs(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text("x = 1")
    code, out, err = run("check", "--json", "--home", str(tmp_path))
    assert code == 2 and err == "" and '"path": "x"' in out


@pytest.mark.parametrize("verb", [("init", "-"), ("completion",)])
def test_a_reader_that_goes_away_is_no_traceback(verb: tuple[str, ...]) -> None:
    """As in `portfleet init - | head -1`; the second is short enough to wait in the buffer until the end."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "portfleet", *verb], stdout=gone, stderr=subprocess.PIPE, check=False, timeout=60,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("verb", VERBS)
def test_an_interpreter_that_starts_can_import_each_verb_first(verb: str) -> None:
    """Where everything is imported already, a circle of imports does not show."""
    subprocess.run(
        [sys.executable, "-c", f"import importlib; importlib.import_module('portfleet.commands.{verb}')"], check=True
    )


STREAMS = (">&-", "<&- >&- 2>&-", "2>&-", ">/dev/full", "PYTHONIOENCODING=ascii", "TERM=dumb")


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("words", ["status", "check", "--help", "no-such-verb"])
def test_streams_that_are_closed_full_or_without_signs_are_no_traceback(
    tmp_path: Path, words: str, streams: str
) -> None:
    (tmp_path / "fleet.toml").write_text(run("init", "-")[1])
    before, after = (streams, "") if "=" in streams else ("", streams)
    command = f"{before} {sys.executable} -m portfleet --home {tmp_path} {words} {after}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    usual = {"status": (1, 9), "check": (0,), "--help": (0,), "no-such-verb": (2,)}[words]
    assert done.returncode in ((1, 2) if "full" in streams else usual), done
    assert {path.name for path in tmp_path.iterdir()} == {"fleet.toml"}


@pytest.mark.parametrize(
    "words",
    [
        ("cutover", "echo", "--release", ""),
        ("cutover", "echo", "--release="),
        ("pin", "echo", "198.18.0.7", ""),
        ("drain", ""),
        ("--home", "", "down"),
    ],
)
def test_an_empty_argument_widens_no_verb(words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (Exit.USAGE, "")
    assert "an argument is empty; is a variable of the shell unset?" in err


def test_a_reason_may_be_empty() -> None:
    assert parse(["drain", "echo", "--why", ""])[0].why == ""
