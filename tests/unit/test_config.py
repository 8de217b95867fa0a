"""fleet.toml: what is wrong is said with its path and a hint, all of it at once."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfleet.core.errors import ConfigError, Exit
from portfleet.core.model import Affinity, Listen
from portfleet.doctor.page import open_page
from portfleet.linux.machine import read_machine
from support.fleets import ECHO, fleet, machine, problems

KV = """
[service.kv]
listen = [":6000"]
command = ["redis-server", "--port", "{port}"]
ports = "6100-6103"
instances = 2
"""


def echo(*lines: str, without: str = "") -> str:
    """Return ECHO with ``lines`` instead of its own lines for the same keys, and without the key ``without``."""
    dropped = {line.split("=")[0].split(".")[0].strip() for line in lines if "=" in line} | {without}
    kept = [line for line in ECHO.splitlines() if line.split("=")[0].strip() not in dropped]
    return "\n".join([*kept, *lines])


# (config, path, part of the message, part of the hint): one line per kind of problem.
WRONG = [
    ("", "service", "no service is defined", "portfleet init"),
    ("service = 3", "service", "no service is defined", "portfleet init"),
    ("[service]\necho = 3", "service.echo", "must be a table", "write [service.echo]"),
    ("listen = [", "file", "not TOML", "portfleet init"),
    ("colour = 1\n" + ECHO, "colour", "unknown key", "known keys"),
    (echo("instnces = 3"), "service.echo.instnces", "unknown key", 'did you mean "instances"?'),
    (echo('"a\\u001b" = 3'), 'service.echo."a\\u001b"', "unknown key", "known keys"),
    (echo("zzz = 3"), "service.echo.zzz", "unknown key", "known keys: affinity, allow, command"),
    (ECHO + "[service.echo.probe]\nsend_ = 'x'", "service.echo.probe.send_", "unknown key", '"send"'),
    (ECHO + "[service.echo.drain]\nspeed = 1", "service.echo.drain.speed", "unknown key", "deadline"),
    (ECHO + "[fleet]\ndrifts = 'x'", "fleet.drifts", "unknown key", '"drift"'),
    (ECHO + "[fleet]\ndrift = 'x'", "fleet.drift", '"x" is none of repair, report', '"repair"'),
    (ECHO + "[service.Echo]", "service.Echo", "not a name", "[a-z]"),
    (ECHO + '[service."a b"]', 'service."a b"', "not a name", "[a-z]"),
    (ECHO + '[service."a;flush ruleset"]', 'service."a;flush ruleset"', "not a name", "[a-z]"),
    (ECHO + '[service."a]\\n[program:x"]', 'service."a]\\n[program:x"', "not a name", "[a-z]"),
    (ECHO + "[service.1st]", "service.1st", "not a name", "[a-z]"),
    (ECHO + f"[service.{'a' * 32}]", f"service.{'a' * 32}", "not a name", "{0,30}"),
    (ECHO + "[service.service-x]", "service.service-x", 'start with "service-"', "[a-z]"),
    (ECHO + "[service.a-blue-1]", "service.a-blue-1", "end like an instance's", "[a-z]"),
    (ECHO + "[service.a-remote-12]", "service.a-remote-12", "end like an instance's", "[a-z]"),
    (echo(without="listen"), "service.echo.listen", "is missing", 'listen = [":7000"]'),
    (echo("listen = []"), "service.echo.listen", "is empty", 'listen = [":7000"]'),
    (echo("listen = ':7000'"), "service.echo.listen", "must be a list of strings, not a string", 'listen = [":7000"]'),
    (echo("listen = [7000]"), "service.echo.listen[0]", "must be a string, not a number", '[":7000"]'),
    (echo("listen = ['7000']"), "service.echo.listen[0]", '"7000": not ADDRESS:PORT', "[2001:db8::1]:7000"),
    (echo("listen = [':0']"), "service.echo.listen[0]", "port 0 is not within 1-65535", '":7000"'),
    (echo("listen = [':70000']"), "service.echo.listen[0]", "port 70000", '":7000"'),
    (echo("listen = ['1.2.3:7000']"), "service.echo.listen[0]", "1.2.3", '":7000"'),
    (echo("listen = ['[fe80::1%x ; y]:7000']"), "service.echo.listen[0]", "a scope (%) cannot be used", '":7000"'),
    (echo("remote = ['[fe80::1%eth0]:7101']"), "service.echo.remote[0]", "a scope (%)", "203.0.113.2:7101"),
    (echo("listen = ['[::g]:7000']"), "service.echo.listen[0]", "::g", '":7000"'),
    (echo("listen = [':7000', ':7000']"), "service.echo.listen[1]", "is there twice", "remove"),
    (echo("listen = [':7000', '0.0.0.0:7000']"), "service.echo.listen[1]", "0.0.0.0:7000", "remove"),
    (echo('listen = ["\\u0000"]'), "service.echo.listen[0]", "control character '\\x00'", "printable"),
    (echo("listen = ['']"), "service.echo.listen[0]", '"": not ADDRESS:PORT', '":7000"'),
    (echo(without="command"), "service.echo.command", "is missing", "redis-server"),
    (echo("command = []"), "service.echo.command", "is empty", "redis-server"),
    (echo("command = ['', '{port}']"), "service.echo.command", '"" is not found', "install it"),
    (echo("command = 'x {port}'"), "service.echo.command", "must be a list of strings", "redis-server"),
    (echo("command = ['nope', '{port}']"), "service.echo.command", '"nope" is not found', "install it"),
    (echo("command = ['redis-server']"), "service.echo.command", "never use {port}", '"{port}"'),
    (echo("command = ['redis-server', '{port}', '{prot}']"), "service.echo.command", "{prot}", "{port}?"),
    (echo("command = ['redis-server', '{port}', '{zz}']"), "service.echo.command", "{zz}", "known: {port}"),
    (echo("command = ['redis-server', '{port}', '{release}']"), "service.echo.command", "no release", "release ="),
    (echo("command = ['redis-server', '{port}', 'a ;b']"), "service.echo.command[2]", "comment", "file"),
    (echo("""environment = {A = '''a 'b\" c'''}"""), "service.echo.environment.A", "both kinds", "file"),
    (echo("directory = '{release}'"), "service.echo.directory", "no release is set", "/srv/echo/v1"),
    (echo("directory = '/nope'"), "service.echo.directory", "/nope does not exist", "mkdir -p /nope"),
    (echo("directory = '/srv ;x'"), "service.echo.directory", "comment", "file"),
    (echo("releases = 3"), "service.echo.releases", "must be a string, not a number", "releases ="),
    (echo("release = ''"), "service.echo.release", "is empty", "leave the key out"),
    (echo("user = 'nemo'"), "service.echo.user", 'no user "nemo"', "useradd --system nemo"),
    (echo("environment = 3"), "service.echo.environment", "must be a table", "PYTHONPATH"),
    (echo("environment = {A = 1}"), "service.echo.environment.A", "must be a string, not a number", "PYTHONPATH"),
    (echo("environment = {'A-B' = '1'}"), "service.echo.environment.A-B", "not the name", "letters"),
    (echo("environment = {PORTFLEET_X = '1'}"), "service.echo.environment.PORTFLEET_X", "itself", "another name"),
    (echo('environment = {A = "1\\n2"}'), "service.echo.environment.A", "control character", "file"),
    (echo("environment = {A = 'x #y'}"), "service.echo.environment.A", "comment", "file"),
    (echo("""release = '''x'",LD_PRELOAD="/tmp/evil'''"""), "service.echo.release", "both kinds of quotes", "file"),
    (
        echo("""release = 'a"b'""", """environment = {A = "{release}'c"}"""),
        "service.echo.environment.A",
        "both kinds of quotes",
        "file",
    ),
    (echo("directory = '{release} ;x'", "release = '/r'"), "service.echo.directory", "comment", "file"),
    (echo("releases = '/srv #x'", "release = 'v1'"), "service.echo.releases", "comment", "another directory"),
    (echo("environment = {A = '{relase}'}"), "service.echo.environment.A", "{relase}", "{release}?"),
    (echo("instances = 0"), "service.echo.instances", "0 is not within 1 … 1024", "for example"),
    (echo(f"instances = 0x{'f' * 5000}"), "service.echo.instances", "more than 20 digits is not within", "for example"),
    (echo(f"weight = {{1 = 0x{'f' * 5000}}}"), "service.echo.weight.1", "20 digits is not within 0", "for example"),
    (f"x = {'1' * 5000}\n" + ECHO, "file", "not TOML: Exceeds the limit", "portfleet init"),
    (f"x = {'[' * 5000}", "file", "not TOML: lists within lists too deep", "portfleet init"),
    (echo(f"start_timeout = '{'9' * 400}d'"), "service.echo.start_timeout", "longer than 3650 days", '"30s"'),
    (ECHO + f"[service.echo.drain]\ndeadline = '{'9' * 9}h'", "service.echo.drain.deadline", "3650 days", '"30s"'),
    (echo("instances = true"), "service.echo.instances", "a whole number, not a boolean", "for example"),
    (echo("instances = 1.5"), "service.echo.instances", "a whole number, not a number", "for example"),
    (echo(without="ports"), "service.echo.ports", "is missing", "7100-7199"),
    (echo("ports = '7100'"), "service.echo.ports", "not a range", "7100-7199"),
    (echo("ports = '7107-7100'"), "service.echo.ports", "not a range", "7100-7199"),
    (echo("ports = '65530-65536'"), "service.echo.ports", "not a range", "7100-7199"),
    (echo("ports = '7100-7106'"), "service.echo.ports", '8 ports are needed, "7100-7106" has 7', '"7100-7107"'),
    (echo("ports = '40000-40099'"), "service.echo.ports", "ip_local_port_range (32768-60999)", "ip_local_reserved"),
    (echo("ports = '6995-7010'"), "service.echo.ports", "holds port 7000, which service echo", "keep listen ports"),
    (
        ECHO + KV.replace("6100-6103", "7104-7110"),
        "service.kv.ports",
        "overlaps the ports of service echo",
        "7108-7114",
    ),
    (ECHO + KV.replace("6100-6103", "6999-7002"), "service.kv.ports", "7000, which service echo", "keep listen"),
    (ECHO + KV.replace(":6000", ":7000"), "service.kv.listen[0]", 'is taken by service echo (":7000")', "its own port"),
    (ECHO + KV.replace(":6000", "[::]:7000"), "service.kv.listen[0]", "is taken by service echo", "its own port"),
    (echo("slots = 255"), "service.echo.slots", "255 is not within 256 … 65536", "for example"),
    (echo("slots = 256", "instances = 300", "ports = '8000-8999'"), "service.echo.slots", "shared by 300", "512"),
    (echo("affinity = 'src'"), "service.echo.affinity", "not an affinity", "round-robin"),
    (echo("affinity = 'source/33'"), "service.echo.affinity", "from 1 to 32", "source/24/56"),
    (echo("affinity = 'source/24/0'"), "service.echo.affinity", "from 1 to 128", "source/24/56"),
    (echo("affinity = 24"), "service.echo.affinity", "must be a string", "source"),
    (echo("sticky = '5'"), "service.echo.sticky", '"5" is not a duration', 'or "off"'),
    (echo("sticky = '0s'"), "service.echo.sticky", "longer than nothing", "30s"),
    (echo("sticky_size = 5"), "service.echo.sticky_size", "5 is not within", "for example"),
    (echo("weight = {9 = 1}"), "service.echo.weight.9", 'no instance "9"', "members are 1 … 4"),
    (echo("weight = {1 = -1}"), "service.echo.weight.1", "-1 is not within 0 … 1000", "weight"),
    (echo("weight = {1 = 'x'}"), "service.echo.weight.1", "must be a whole number", "for example"),
    (echo("weight = {1=0, 2=0, 3=0, 4=0}"), "service.echo.weight", "none would serve", "one"),
    (echo("max_connections = 20000"), "service.echo.max_connections", "hard limit here is 20000", "LimitNOFILE"),
    (echo("control = 'on'"), "service.echo.control", "none of auto, off", '"auto" or "off"'),
    (echo("overflow = 'x'"), "service.echo.overflow", "none of next, refuse", '"next"'),
    (echo("when_empty = 'x'"), "service.echo.when_empty", "none of keep, refuse, drop", '"keep"'),
    (echo("remote = [':7101']"), "service.echo.remote[0]", "names no box", "203.0.113.2:7101"),
    (echo("remote = ['x']"), "service.echo.remote[0]", '"x": not ADDRESS:PORT', "203.0.113.2:7101"),
    (echo("remote = ['203.0.113.2:7101']"), "service.echo.remote[0]", "IPv4 only, but listen", "0.0.0.0:7000"),
    (
        echo("remote = ['[2001:db8::2]:7101']", "listen = ['0.0.0.0:7000']"),
        "service.echo.remote[0]",
        "IPv6 only, but listen",
        "[::]:7000",
    ),
    (echo("start_timeout = 30"), "service.echo.start_timeout", 'must be a duration such as "30s"', "start_timeout"),
    (echo("start_timeout = '30 s'"), "service.echo.start_timeout", "is not a duration", '"30s"'),
    (echo("keep_releases = 0"), "service.echo.keep_releases", "0 is not within", "for example"),
    (echo("probe = 3"), "service.echo.probe", "must be a table", "probe"),
    (ECHO + "[service.echo.probe]\nexpect = 'x'", "service.echo.probe.expect", "send is not", "set send"),
    (ECHO + "[service.echo.probe]\nfall = 0", "service.echo.probe.fall", "0 is not within", "for example"),
    (ECHO + "[service.echo.drain]\nrate = 0", "service.echo.drain.rate", "0 is not within", "for example"),
    (ECHO + "[service.echo.drain]\nthen = 'x'", "service.echo.drain.then", "none of wait, evict, kill", '"wait"'),
]


@pytest.mark.parametrize(("text", "path", "message", "hint"), WRONG, ids=range(len(WRONG)))
def test_each_problem_has_its_path_and_a_hint(text: str, path: str, message: str, hint: str) -> None:
    found = problems(text)

    assert [problem.path for problem in found] == [path]
    assert message in found[0].message
    assert hint in found[0].hint


def test_no_problem_is_without_a_hint() -> None:
    assert [p for text, *_ in WRONG for p in problems(text) if not p.hint] == []


def test_all_problems_are_said_at_once_in_the_order_of_the_file() -> None:
    text = "colour = 1\n" + echo("instances = 0", "ports = 'x'", "sticky = '5'", "user = 'nemo'", "affinity = 'x'")
    text += KV.replace("redis-server", "nope") + "[service.Bad]\n[service.kv.probe]\nfall = 0\n"

    found = {problem.path for problem in problems(text)}

    assert found == {
        "colour",
        *(f"service.echo.{key}" for key in ("instances", "ports", "sticky", "user", "affinity")),
        "service.kv.command",
        "service.kv.probe.fall",
        "service.Bad",
    }


def test_the_whole_error_is_for_people() -> None:
    with pytest.raises(ConfigError) as caught:
        fleet(echo("instances = 0", "user = 'nemo'"))

    assert caught.value.code is Exit.USAGE
    assert str(caught.value) == (
        "fleet.toml: 2 problems\n"
        "service.echo.instances: 0 is not within 1 … 1024\n"
        "  hint: for example instances = 2\n"
        'service.echo.user: this machine has no user "nemo"\n'
        "  hint: useradd --system nemo"
    )


def test_a_binary_file_is_named_as_one() -> None:
    (found,) = problems(b"\x7fELF\x02\x01\x01\x00\xff\xfe")

    assert (found.path, found.hint) == ("file", "write a commented example with: portfleet init")
    assert found.message == "not a text file: byte 0xff at offset 8 is not UTF-8"
    assert "not TOML" in problems(b"\x7fELF\x02\x01\x01\x00")[0].message


def test_a_key_that_is_wrong_by_itself_is_not_reported_again() -> None:
    assert [p.path for p in problems(echo("ports = 'x'", "instances = 4"))] == ["service.echo.ports"]
    assert [p.path for p in problems(echo("command = [3]"))] == ["service.echo.command[0]"]


def test_a_word_of_a_command_may_be_empty() -> None:
    words = ("redis-server", "--save", "", "--port", "{port}")
    assert fleet(echo(f"command = {list(words)}")).services["echo"].command == words


def test_what_the_machine_allows_counts() -> None:
    high = echo("ports = '40000-40099'")
    assert problems(high, machine(reserved=((39000, 41000),))) == ()
    assert problems(high, machine(local_ports=(50000, 60000))) == ()
    assert problems(echo("max_connections = 20000"), machine(descriptors=20064)) == ()
    assert "only root" in problems(echo("user = 'nobody'"), machine(is_root=False))[0].message
    assert "user namespace" in problems(echo("user = 'nobody'"), machine(mapped=False))[0].message
    assert problems(echo("user = 'nobody'")) == ()


def test_defaults_are_those_of_the_example() -> None:
    service = fleet(echo(without="instances"), machine(cpus=3)).services["echo"]

    assert service.instances == 3
    assert (service.slots, service.affinity, service.sticky) == (4096, Affinity("source", 32, 64), None)
    assert (service.probe.fall, service.drain.deadline, service.start_timeout) == (3, 600.0, 30.0)
    assert fleet().drift == "repair"


def test_two_services_may_share_a_port_on_different_addresses_and_families() -> None:
    four = echo("listen = ['0.0.0.0:7000']")
    assert problems(four + KV.replace(":6000", "[::]:7000")) == ()
    assert problems(echo("listen = ['192.0.2.1:7000']") + KV.replace(":6000", "192.0.2.2:7000")) == ()


def test_colours_have_halves_of_the_ports() -> None:
    service = fleet(echo("ports = '7100-7199'")).services["echo"]

    assert [service.port_of("blue", number) for number in (1, 4)] == [7100, 7103]
    assert [service.port_of("green", number) for number in (1, 4)] == [7150, 7153]
    odd = replace(service, ports=(7100, 7108))
    assert odd.port_of("blue", 4) < odd.port_of("green", 1) and odd.port_of("green", 4) <= 7108


def test_families_follow_the_listen_addresses() -> None:
    assert fleet().services["echo"].families == {4, 6}
    assert fleet(echo("listen = ['192.0.2.1:7000']")).services["echo"].families == {4}
    assert fleet(echo("listen = ['[2001:db8::1]:7000']")).services["echo"].listen == (
        Listen(7000, "2001:db8::1", (6,)),
    )


def test_a_name_that_no_file_can_have_is_just_not_there() -> None:
    real, long = read_machine(), "x" * 300
    for command in (long, f"/{long}/x"):
        text = echo(f"command = ['{command}', '{{port}}']", f"directory = '/srv/{long}'")
        assert {p.path for p in problems(text, real)} == {"service.echo.command", "service.echo.directory"}


#: What may stand as a value of any key: of the right kind and not, within and out of all bounds.
VALUE = st.one_of(
    st.integers(),
    st.just(1 << 20_000),
    st.floats(),
    st.booleans(),
    st.text(max_size=40).map(json.dumps),
    st.sampled_from(["'[::1%x]:70'", "'source/999'", "'9e9d'", "':7000'", "'{port}'", "'7100-7107'", "{1 = 2}"]),
    st.text(alphabet="[]{},='\"#\n:%0x", max_size=20),
).map(lambda value: hex(value) if isinstance(value, int) and value > 1 << 64 else str(value))
VALUES = st.one_of(VALUE, st.lists(VALUE, max_size=2).map(lambda values: f"[{','.join(values)}]"))
KEYS = ["listen", "command", "release", "directory", "user", "environment", "instances", "ports", "slots", "affinity"]
KEYS += [
    "control",
    "sticky",
    "sticky_size",
    "weight",
    "max_connections",
    "overflow",
    "remote",
    "start_timeout",
    "probe",
]
KEYS += ["drain"]


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_no_config_ends_in_a_traceback(values: dict[str, str]) -> None:
    text = echo(*(f"{key} = {value}" for key, value in values.items()))
    for problem in problems(text.encode(errors="replace")):
        assert problem.path and problem.message


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_nor_does_any_file(data: bytes) -> None:
    assert problems(data)


def test_every_message_is_one_line_of_printable_text() -> None:
    for text, *_ in WRONG:
        for problem in problems(text):
            assert not re.search(r"[\x00-\x1f\x7f]", problem.path + problem.message + problem.hint), problem


def test_without_ipv6_every_local_address_is_ipv4_alone_and_ipv6_is_refused() -> None:
    bare = machine(ipv6=False)
    service = fleet(ECHO, bare).services["echo"]
    assert [str(listen) for listen in service.listen] == ["0.0.0.0:7000"] and service.families == {4}
    both = ECHO.replace('":7000"', '":7000", "[::]:7001", "[2001:db8::1]:7002"')
    found = [p for p in problems(both + 'remote = ["[2001:db8::2]:7101"]\n', bare) if "this kernel" in p.message]
    assert [p.path for p in found] == [f"service.echo.{key}" for key in ("listen[1]", "listen[2]", "remote[0]")]
    assert found[0].hint == 'write "0.0.0.0:7001"' and "ipv6.disable=1" in found[0].message
    assert fleet(ECHO).services["echo"].families == {4, 6}


def test_a_token_without_a_page_is_named() -> None:
    page = '[page]\ntoken_file = "page.token"\n'
    assert [problem.path for problem in problems(page + ECHO)] == ["page.token_file"]
    assert problems('[metrics]\nlisten = "127.0.0.1:9797"\n' + page + ECHO) == ()


@pytest.mark.parametrize(
    ("listen", "told"),
    [("127.0.0.1:9797", 0), ("[::1]:9797", 0), (":9797", 1), ("192.0.2.1:9797", 1), ("[2001:db8::1]:9797", 1)],
)
def test_a_token_that_would_travel_in_the_clear_is_noted(listen: str, told: int) -> None:
    metrics = f'[metrics]\nlisten = "{listen}"\n'
    assert len(list(open_page(fleet(metrics + '[page]\ntoken_file = "page.token"\n' + ECHO)))) == told
    assert list(open_page(fleet(metrics + ECHO))) == []
