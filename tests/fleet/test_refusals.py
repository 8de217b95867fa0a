"""Bad input: each is a clear error with a hint and its exit code, and nothing is half done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import fleet_box as fleet_box_module
from support.fleet_box import ECHO, HOME, PORTFLEET, REDIS, FleetBox, fleet_box
from support.reachable import show_checkout
from support.rights import needs_another_user
from support.sandbox import Box, client4

ONE = ECHO.replace("instances = 4", "instances = 1")

# (config, where, what, hint): the first line of each is what `check`, `plan`, `apply` and `up` say, exit 2.
CONFIGS = {
    "an unknown key": (ONE + "instnces = 2\n", "service.echo.instnces", "unknown key", 'did you mean "instances"?'),
    "a port clash between services": (
        ONE + REDIS.replace(":6000", ":7000"),
        "service.kv.listen[0]",
        '":7000" is taken by service echo',
        "its own port",
    ),
    "instance ports that clash": (
        ONE + REDIS.replace("6100-6107", "7104-7111"),
        "service.kv.ports",
        '"7104-7111" overlaps the ports of service echo',
        '"7108-7115"',
    ),
    "a range too small": (ECHO.replace("7107", "7106"), "service.echo.ports", "8 ports are needed", '"7100-7107"'),
    "a range of outgoing ports": (
        ONE.replace("7100-7107", "40000-40007"),
        "service.echo.ports",
        "ip_local_port_range (32768-60999)",
        "sysctl -w net.ipv4.ip_local_reserved_ports=40000-40007",
    ),
    "a name that would break nft": (
        ONE + '[service."x }; flush ruleset; {"]\n',
        'service."x }; flush ruleset; {"',
        "is not a name that can be used everywhere",
        "[a-z][a-z0-9-]{0,30}",
    ),
    "a name that would break supervisord": (
        ONE + '[service."x]\\ncommand=/bin/sh"]\n',
        'service."x]\\ncommand=/bin/sh"',
        "is not a name that can be used everywhere",
        "[a-z][a-z0-9-]{0,30}",
    ),
    "a command not found": (
        ONE.replace("portfleet-daemon", "portfleet-deamon"),
        "service.echo.command",
        '"portfleet-deamon" is not found',
        "install it",
    ),
    "a placeholder without a value": (
        ONE.replace('"{port}",', '"{port}", "{release}",'),
        "service.echo.command",
        "{release} is used but no release is set",
        "set release",
    ),
    "a user who is not": (ONE + 'user = "nemo"\n', "service.echo.user", 'no user "nemo"', "useradd"),
    "text that is no TOML": ("[service.echo\n", "file", "not TOML", "portfleet init"),
}


@pytest.fixture(scope="module")
def running() -> Iterator[FleetBox]:
    """A fleet of one instance that is up and settled."""
    with fleet_box(ONE) as fleet:
        fleet.calm()
        yield fleet


@pytest.fixture
def empty() -> Iterator[FleetBox]:
    with fleet_box() as fleet:
        yield fleet


@contextmanager
def unchanged(fleet: FleetBox) -> Iterator[None]:
    """Demand that the block changes no rule, process or file of the fleet."""
    before = fleet.snapshot()
    yield
    assert fleet.snapshot() == before


@pytest.mark.parametrize("why", CONFIGS)
@pytest.mark.parametrize("verb", ["check", "apply", "up"])
def test_a_bad_config_is_refused_and_the_fleet_goes_on(running: FleetBox, why: str, verb: str) -> None:
    config, where, what, hint = CONFIGS[why]
    running.write(config)

    with unchanged(running):
        refused = running.portfleet(verb, check=False)

    assert (refused.returncode, refused.stdout) == (2, "")
    said = refused.stderr.splitlines()
    assert said[0] == "portfleet: /run/pf/fleet.toml: 1 problem"
    assert said[1].startswith(f"{where}: ") and what in said[1]
    assert said[2].startswith("  hint: ") and hint in said[2]
    assert len(said) == 3


def test_a_binary_file_for_a_config(running: FleetBox) -> None:
    running.boxes.host.run("cp", "/bin/true", "/run/pf/fleet.toml")
    with unchanged(running):
        refused = running.portfleet("up", check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "not a text file: byte 0x" in refused.stderr and "hint: write a commented example" in refused.stderr
    assert all(character.isprintable() for character in refused.stderr.replace("\n", ""))


def test_no_config_at_all(empty: FleetBox) -> None:
    empty.boxes.host.run("rm", "/run/pf/fleet.toml")
    with unchanged(empty):
        for verb in ("check", "plan", "apply", "up", "down", "status", "lock"):
            refused = empty.portfleet(verb, check=False)
            assert refused.returncode == 2, verb
            assert "No such file" in refused.stderr and "hint: write one with: portfleet init" in refused.stderr


def test_while_the_config_is_broken_status_shows_the_one_applied_last(running: FleetBox) -> None:
    running.write("[service.echo\n")
    said = running.look("--json")
    assert "going by the config applied last" in said.stderr
    assert json.loads(said.stdout)["services"][0]["instances"][0]["state"] == "ready"
    assert running.explain("echo", [client4(1), client4(2)]) == dict.fromkeys([client4(1), client4(2)], "echo-blue-1")


STRANGER = """
import socket
listener = socket.create_server(("127.0.0.1", 7100))
print("up", flush=True)
input()
"""


def test_a_port_that_a_stranger_has_is_named_with_the_stranger(empty: FleetBox) -> None:
    empty.write(ONE)
    with empty.boxes.host.popen("python3", "-c", STRANGER) as stranger:
        assert stranger.stdout is not None and stranger.stdout.readline() == "up\n"
        with unchanged(empty):
            refused = empty.portfleet("up", check=False)
        stranger.communicate("\n")

    assert refused.returncode == 1
    assert "ports of instances are taken by others; nothing was changed" in refused.stderr
    assert re.search(r"echo-blue-1: python3 \(pid \d+\) listens on its port 7100", refused.stderr)
    assert "hint: choose other ports in fleet.toml, or end what" in refused.stderr
    empty.portfleet("up")


@pytest.mark.long
def test_a_daemon_that_listens_on_one_address_only_is_not_ready(empty: FleetBox) -> None:
    """It would answer a local probe while all its clients time out."""
    redis = REDIS.replace("instances = 4", "instances = 1").replace('"no"]', '"no", "--bind", "127.0.0.1"]')
    empty.write(redis + ONE)

    said = empty.portfleet("up", check=False)

    assert said.returncode == 4
    assert "kv, echo: 1 instance serving, 1 not:" in said.stdout
    assert "kv-blue-1: listens on 127.0.0.1:6100 only; connections keep the address that was dialled" in said.stdout
    assert "see: portfleet logs kv/kv-blue-1" in said.stdout
    status = empty.status()
    assert (status["kv-blue-1"]["state"], status["kv-blue-1"]["slots"]) == ("failed", 0)
    assert empty.who([client4(0)]) == {client4(0): "echo-blue-1"}, "the others serve"
    assert "listens on 127.0.0.1:6100 only" in empty.look().stdout


def test_one_family_is_not_enough_for_clients_of_both(empty: FleetBox) -> None:
    redis = REDIS.replace("instances = 4", "instances = 1").replace('"no"]', '"no", "--bind", "0.0.0.0"]')
    empty.write(redis)
    said = empty.portfleet("up", check=False)
    assert (said.returncode, "listens on 0.0.0.0:6100 only; IPv6 clients are" in said.stdout) == (4, True)

    empty.write(redis.replace(":6000", "0.0.0.0:6000"))
    assert empty.portfleet("up").returncode == 0
    assert empty.redis_ports([client4(0)]) == {client4(0): 6100}


def test_a_daemon_that_ends_at_once_is_told_with_its_last_words(empty: FleetBox) -> None:
    empty.write(ONE.replace('"portfleet-daemon",', '"sh", "-c", "echo no disk left >&2; exit 7",'))
    said = empty.portfleet("up", check=False)
    assert said.returncode == 4
    assert "echo-blue-1: ended within a second of each start; its last words: no disk left\n" in said.stdout
    assert "see: portfleet logs echo/echo-blue-1" in said.stdout


def test_without_the_right_to_change_nftables_nothing_is_started(empty: FleetBox) -> None:
    empty.write(ONE)
    less = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    with unchanged(empty):
        for verb in ("plan", "up"):
            refused = _portfleet(empty.boxes.host, *less, verb=verb)
            assert refused[0] == 3, verb
            assert "Operation not permitted" in refused[1] and "CAP_NET_ADMIN" in refused[1]
    empty.portfleet("up")
    empty.calm()
    with unchanged(empty):
        assert _portfleet(empty.boxes.host, *less, verb="apply")[0] == 3


def _portfleet(box: Box, *prefix: str, verb: str) -> tuple[int, str]:
    done = box.run(*prefix, PORTFLEET, "--home", "/run/pf", verb, check=False)
    return done.returncode, done.stderr


@pytest.mark.long
def test_an_nft_too_old_is_told_what_it_lacks(empty: FleetBox, tmp_path: Path) -> None:
    empty.write(ONE)
    real = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    real = next(line.split()[-1] for line in real.splitlines() if "libnftables.so.1" in line)
    lacking = [f'-DREAL="{real}"', '-DLACKS="jhash"', "-o", str(tmp_path / "libnftables.so.1")]
    source = Path(fleet_box_module.__file__).with_name("older_nft.c")
    subprocess.run(["gcc", "-shared", "-fPIC", *lacking, str(source)], check=True)

    with unchanged(empty):
        library = {"LD_LIBRARY_PATH": str(tmp_path)}  # the loader reads that when a program starts
        refused = empty.boxes.host.run(PORTFLEET, "--home", HOME, "up", check=False, env=library)

    assert refused.returncode == 3
    assert "this machine lacks what nftables needs; nothing was changed" in refused.stderr
    assert "  a hash of the client's address (nft_hash): without it affinity source" in refused.stderr
    assert "hint: Debian 12 and later, or Linux 5.10 with nft 1.0.2, have it all" in refused.stderr
    assert refused.stderr.count("without it") == 1, "the rest is there"


@needs_another_user
def test_somebody_without_rights_can_look_but_not_touch(running: FleetBox) -> None:
    running.write(ONE)
    show_checkout(running.boxes.host)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    with unchanged(running):
        code, said = _portfleet(running.boxes.host, *nobody, verb="up")
        assert code in (1, 3) and "hint: " in said and "Traceback" not in said
        for verb in ("status", "plan", "down", "lock"):
            code, said = _portfleet(running.boxes.host, *nobody, verb=verb)
            assert "Traceback" not in said, verb
            assert code == 0 or "hint: " in said, verb


def test_an_apply_without_supervisord_says_up(empty: FleetBox) -> None:
    empty.write(ONE)
    with unchanged(empty):
        refused = empty.portfleet("apply", check=False)
    assert (refused.returncode, refused.stderr) == (
        1,
        "portfleet: supervisord is not running\nhint: start it and the fleet with: portfleet up\n",
    )


def test_a_home_too_deep_for_a_socket(empty: FleetBox) -> None:
    deep = "/run/" + "d" * 90
    empty.boxes.host.run("sh", "-c", f"mkdir {deep}; cat > {deep}/fleet.toml", text=ONE)
    for verb in ("check", "up"):
        refused = empty.portfleet("--home", deep, verb, check=False)
        assert refused.returncode == 2
        assert "bytes long, the kernel takes 107" in refused.stderr and deep in refused.stderr


HOLD = f"""
from portfleet.store import locks
from portfleet.core.paths import resolve
paths = resolve(home="{HOME}", config=None)
with locks.operation(paths.operation_lock("echo"), service="echo", why="cutover"):
    print("held", flush=True)
    input()
"""


def test_two_at_once_the_second_is_told_of_the_first(running: FleetBox) -> None:
    running.write(ONE)
    with running.boxes.host.popen(sys.executable, "-c", HOLD) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for verb in ("apply", "up", "down"):
            refused = running.portfleet(verb, check=False)
            assert refused.returncode == 5
            assert "service echo is locked by" in refused.stderr and "Z: cutover" in refused.stderr
        assert "cutover" in running.portfleet("lock").stdout
        assert running.look().returncode == 0
        holder.communicate("\n")
    assert running.portfleet("lock").stdout == "echo: free\n"
