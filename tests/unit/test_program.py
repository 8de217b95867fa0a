"""What supervisord reads is what was meant: the rendered files go through supervisor's own parser."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisor.datatypes import RestartUnconditionally, RestartWhenExitUnexpected
from supervisor.options import ServerOptions

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.paths import resolve
from portfleet.core.program import Program, refuse_unusable, unquotable, unwritable, watch_program
from portfleet.store.directories import make_directories
from portfleet.supervise.ini import program_text, write_config
from support.fleets import ECHO, desired, fleet, problems

#: All that a config lets through: no control characters (config refuses them), then what `unwritable` allows.
VALUE = st.lists(
    st.characters(exclude_categories=("Cs", "Cc"))
    | st.sampled_from(list("%;#'\"\\ ,={}()$`\u00a0"))
    | st.sampled_from(["%(here)s", "%%(here)s", "%(ENV_HOME)s", "%(program_name)s", "%(process_num)02d", "%s", "%("]),
    max_size=30,
).map("".join)


def parsed(program: Program, home: Path) -> dict[str, object]:
    """Return how supervisord understands ``program`` when it is one file of a whole config."""
    paths = resolve(home=str(home), config=None)
    make_directories(paths)
    write_config([*fleet().services.values()], paths)
    (paths.programs / f"{program.name}.conf").write_text(program_text(program))
    options = ServerOptions()
    options.realize(args=["-c", str(paths.supervisor_config)])
    (group,) = options.process_group_configs
    (process,) = group.process_configs
    assert group.name == process.name == program.name
    return dict(vars(process))


def program(**changes: object) -> Program:
    """Return the program of the first instance of ECHO, with ``changes``."""
    made = desired().services["echo"].instances[0].program
    assert made is not None
    return replace(made, **{"log": "/tmp/x.log", **changes})  # type: ignore[arg-type] # noqa: S108 # never written: only parsed


@settings(max_examples=60)
@given(
    words=st.lists(VALUE.filter(lambda v: v and not unwritable(v)), min_size=1, max_size=4),
    values=st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
        VALUE.filter(lambda v: not unwritable(v) and not unquotable(v)),
        max_size=4,
    ),
)
def test_nasty_words_and_values_arrive_as_they_are(words: list[str], values: dict[str, str]) -> None:
    with TemporaryDirectory() as home:
        found = parsed(program(command=("/bin/true", *words), environment=values), Path(home))

    assert shlex.split(str(found["command"])) == ["/bin/true", *words]
    assert found["environment"] == values


ODD = [
    "%",
    "100%",
    "%(ENV_HOME)s",
    "%(here)s",
    "%%(here)s",
    "%(here).0s",
    "a;b",
    "a#b",
    ";",
    "#",
    '"',
    "'",
    "\\",
    "a b",
    "$HOME",
    "ü",
]


@pytest.mark.parametrize("word", ODD)
def test_these_too(word: str, tmp_path: Path) -> None:
    found = parsed(program(command=("/bin/true", word), directory=f"/srv/x{word}x"), tmp_path)

    assert shlex.split(str(found["command"])) == ["/bin/true", word]
    assert found["directory"] == f"/srv/x{word}x"


@pytest.mark.parametrize("name", ["100%", "%(here)s", "%(program_name)s", "a%%b"])
def test_a_logs_path_arrives_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    assert parsed(program(log=f"{tmp_path}/{name}/x.log"), tmp_path)["stdout_logfile"] == f"{tmp_path}/{name}/x.log"


@pytest.mark.parametrize("value", ["a ;b", "a #b", "a\t; b"])
def test_what_would_be_cut_off_is_refused_and_would_have_been(value: str, tmp_path: Path) -> None:
    assert unwritable(value)
    assert parsed(program(command=("/bin/true", value)), tmp_path)["command"] != shlex.join(["/bin/true", value])


@pytest.mark.parametrize("value", ["'a", 'a"', "a'b\"c", "'a'"])
def test_quotes_that_would_be_lost_are_refused_and_would_have_been(value: str, tmp_path: Path) -> None:
    assert unquotable(value)
    try:
        found = parsed(program(environment={"A": value}), tmp_path)["environment"]
    except SystemExit:
        return  # supervisord would not even start
    assert found != {"A": value}


def test_a_config_with_such_values_is_an_error_with_a_hint() -> None:
    text = ECHO.replace('"{port}"]', '"{port}", "a ;b"]') + "environment = { A = \"'\" }\nrelease = 'v #1'\n"
    found = {problem.path: problem for problem in problems(text)}

    assert set(found) == {"service.echo.command[3]", "service.echo.environment.A", "service.echo.release"}
    assert all(problem.hint for problem in found.values())


UNUSABLE = [
    ('x\'",LD_PRELOAD="/tmp/evil', ("redis-server", "{port}"), "release: supervisord cannot hold"),
    ("v1\n[program:x]", ("redis-server", "{port}"), "release: holds a control character"),
    ("v1 ;", ("redis-server", "{port}"), "release: supervisord would take"),
    ("v1", ("redis-server", "{port}", "a #b"), r"command\[2\]: supervisord would take"),
    ("v1", ("redis-server", "{port}", "a\tb"), r"command\[2\]: holds a control character"),
    ("v1", ("redis-server", "{port}", "{prot}"), "unknown placeholder {prot}"),
]


@pytest.mark.parametrize(("release", "command", "said"), UNUSABLE)
def test_a_cutover_to_what_supervisord_cannot_hold_is_refused(
    release: str, command: tuple[str, ...], said: str
) -> None:
    service = fleet(ECHO + 'release = "v0"\nenvironment = { A = "{release}" }\n').services["echo"]
    with pytest.raises(PortfleetError, match=said) as caught:
        refuse_unusable(service, release=release, command=command)
    assert caught.value.code is Exit.USAGE and caught.value.hint
    refuse_unusable(service, release="v1", command=("redis-server", "{port}"))


def test_what_an_instance_is_told(tmp_path: Path) -> None:
    text = ECHO + 'release = "v1"\nreleases = "/srv"\ndirectory = "{release}"\nuser = "nobody"\n'
    text += 'environment = { P = "{release}:{instance}:{colour}:{service}:{port}" }\n'
    (first, *_) = desired(text).services["echo"].instances
    assert first.program is not None

    environment = first.program.environment

    assert environment["P"] == "/srv/v1:echo-blue-1:blue:echo:7100"
    assert (first.program.directory, first.program.user) == ("/srv/v1", "nobody")
    assert environment["PORTFLEET_CONTROL"] == "/h/run/nobody/echo-blue-1.sock"
    assert first.program.command == ("portfleet-daemon", "--port", "7100")
    read = parsed(replace(first.program, user=None, log="/tmp/x.log"), tmp_path)  # noqa: S108 # never written: only parsed
    assert read["environment"] == environment
    assert (read["startretries"], read["exitcodes"], read["stopwaitsecs"]) == (3, [2], 86_400)
    assert (read["killasgroup"], read["stopasgroup"]) == (True, False)


def test_every_daemon_is_told_how_many_connections_it_may_have() -> None:
    told, limited = [], ECHO + "max_connections = 50\n"
    for text in (ECHO, limited, limited.replace("portfleet-daemon", "redis-server")):
        made = desired(text).services["echo"].instances[0].program
        assert made is not None
        told.append(made.environment.get("PORTFLEET_MAX_CONNECTIONS"))
    assert told == [None, "50", "50"]


def test_after_exit_code_2_the_watcher_decides_but_it_is_itself_always_started_again(tmp_path: Path) -> None:
    paths = resolve(home=str(tmp_path), config=None)
    watcher = replace(watch_program(paths, "/usr/bin/python3"), log="/tmp/x.log")  # noqa: S108 # only parsed
    instance, itself = parsed(program(), tmp_path / "a"), parsed(watcher, tmp_path / "b")
    assert (instance["autorestart"], instance["exitcodes"]) == (RestartWhenExitUnexpected, [2])
    assert itself["autorestart"] == RestartUnconditionally


@pytest.mark.parametrize("home", ["/srv/a b", "/srv/a;b", "/srv/a*", "/srv/[a]", "/srv/a\nb", "/srv/a'c"])
def test_a_home_that_supervisord_cannot_read_from_is_refused(home: str) -> None:
    with pytest.raises(PortfleetError) as caught:
        resolve(home=home, config=None)
    assert caught.value.code is Exit.USAGE and caught.value.hint


def test_a_home_of_other_odd_letters_works() -> None:
    with TemporaryDirectory(prefix="ü%d=a,b@c+d~e:f") as home:  # tmp_path may be too long for a socket below it
        assert parsed(program(), Path(home))["name"] == "echo-blue-1"
