"""Releases over two hosts under clients' load: shipped, cut over, stopped by a failure, finished after a reboot."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator

import pytest

from deploy import Ansible
from nspawn import Host
from support.booted import ask, load, status
from support.sandbox import wait_for

pytestmark = pytest.mark.host


def release(ansible: Ansible, name: str) -> list[str]:
    """Write a release and give the arguments that ship it."""
    return ["-e", "service=echo", "-e", f"release={name}", "-e", f"src={ansible.write_release(name)}"]


def answers(host: Host) -> set[str]:
    """Return the releases that 20 clients are answered by."""
    return {(reply or "nobody").split()[0] for reply in ask(host, count=20, message="x\n")}


def test_a_release_over_two_hosts_fails_no_request(
    deployed: dict[str, Host], ansible: Ansible, measured: Callable[[str], None]
) -> None:
    with load(deployed["one"]) as first, load(deployed["two"]) as second:
        done = ansible.play("release.yml", *release(ansible, "v2"))
        assert done.code == 0, done.output
        again = ansible.play("release.yml", *release(ansible, "v2"))
        assert (again.code, again.changed) == (0, {"one": 0, "two": 0}), again.output
        back = ansible.play("rollback.yml", "-e", "service=echo", "-e", "release=v1")
        assert back.code == 0, back.output
        stays = ansible.play("rollback.yml", "-e", "service=echo", "-e", "release=v1")
        assert (stays.code, stays.changed) == (0, {"one": 0, "two": 0}), stays.output
    measured(
        f"release.yml over two hosts {done.seconds:.1f} s, again {again.seconds:.1f} s, rollback.yml "
        f"{back.seconds:.1f} s:"
    )
    measured(f"  one: {first}")
    measured(f"  two: {second}")
    for clients in (first, second):
        assert clients.failed == 0, clients.report
        assert all(held["seen"][-3:] == ["v1", "v2", "v1"] for held in clients.report["held"])
    assert answers(deployed["one"]) == answers(deployed["two"]) == {"v1"}


def test_a_look_at_a_release_and_a_rollback_changes_nothing(deployed: dict[str, Host], ansible: Ansible) -> None:
    for playbook, arguments in (
        ("release.yml", release(ansible, "v4")),
        ("rollback.yml", ["-e", "service=echo", "-e", "release=v2"]),
    ):
        done = ansible.play(playbook, *arguments, "--check", "--limit", "one")
        assert done.code == 0, done.output
    assert status(deployed["one"])["release"] == "v1"
    never = ansible.play("rollback.yml", "-e", "service=echo", "-e", "release=v0", "--limit", "one")
    assert "no colour of echo has v0" in never.output


def test_a_release_keeps_its_execute_bits_as_a_folder_and_as_an_archive(one: Host, ansible: Ansible) -> None:
    folder = ansible.write_release("v5")
    program = folder / "bin/run"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho runs\n")
    program.chmod(0o755)
    archive = shutil.make_archive(str(folder.with_name("v6")), "gztar", folder)
    sources = {"v5": str(folder), "v6": archive}
    ansible.write_inventory(portfleet_releases=[{"service": "echo", "name": n, "src": s} for n, s in sources.items()])
    try:
        looked = ansible.play("site.yml", "--limit", "one", "--check")
        done = ansible.play("site.yml", "--limit", "one")
        again = ansible.play("site.yml", "--limit", "one")
    finally:
        ansible.write_inventory()
    assert looked.code == 0, looked.output
    assert done.code == 0, done.output
    assert (again.code, again.changed) == (0, {"one": 0}), again.output
    for place in (f"/srv/echo/{name}" for name in sources):
        shown = one.run(f"{place}/bin/run; stat -c '%a %U' {place}/bin {place}/answer.py").stdout
        assert shown == "runs\n755 root\n644 root\n"


def test_a_service_that_an_operator_took_down_stays_down(one: Host, ansible: Ansible) -> None:
    one.run("portfleet down kv --yes")
    done = ansible.play("release.yml", "--limit", "one", *release(ansible, "v1"))
    assert (done.code, done.changed) == (0, {"one": 0}), done.output
    assert ask(one, port=6379, message="PING\r\n") == [None]
    one.run("portfleet up")
    assert ask(one, port=6379, message="PING\r\n") == ["+PONG"]


def test_the_first_failure_ends_a_release_and_drops_nothing(deployed: dict[str, Host], ansible: Ansible) -> None:
    folder = ansible.write_release("broken", broken=True)
    with load(deployed["one"]) as first, load(deployed["two"]) as second:
        done = ansible.play("release.yml", "-e", "service=echo", "-e", "release=broken", "-e", f"src={folder}")
    assert done.code != 0
    assert "two" not in done.changed, done.output
    assert (first.failed, second.failed) == (0, 0)
    assert answers(deployed["one"]) == answers(deployed["two"]) == {"v1"}
    assert status(deployed["one"])["release"] == "v1"


def test_a_reboot_in_the_middle_of_a_release(
    deployed: dict[str, Host], ansible: Ansible, measured: Callable[[str], None]
) -> None:
    one = deployed["one"]
    said = ""
    with ansible.start("release.yml", *release(ansible, "v3")) as process:
        assert process.stdout is not None
        while "TASK [Cut over]" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        # brackets, so that the command that looks does not find itself
        wait_for("the idle colour starts", lambda: one.run("pgrep -f '[p]ort 710[4567]'", check=False).returncode == 0)
        one.cut()
        try:
            said += process.stdout.read()
            assert process.wait(timeout=60) != 0, said
        finally:
            one.boot()
    assert answers(deployed["two"]) == {"v1"}, f"the second box was begun: {said}"
    wait_for("the first box serves again", lambda: "nobody" not in answers(one), seconds=60)
    with load(deployed["two"]) as clients:
        done = ansible.play("release.yml", *release(ansible, "v3"))
    assert done.code == 0, done.output
    assert answers(one) == answers(deployed["two"]) == {"v3"}
    assert clients.failed == 0, clients.report
    measured(f"release.yml after a power cut in its middle: {done.seconds:.1f} s, changed {done.changed}")


def test_a_drain_is_waited_for_by_who_comes_second(one: Host, ansible: Ansible) -> None:
    """A first run that was cut off has left its drain at work; the next one ends with it, not before."""
    with load(one, held=40, connects=1):
        name = next(i["name"] for i in status(one)["instances"] if i["slots"])
        one.run(f"portfleet drain echo/{name} --rate 2 --no-wait")
        target = ["--limit", "one", "-e", f"instance=echo/{name}"]
        second = ansible.play("drain.yml", *target)
        assert second.code == 0, second.output
        assert next(i["connections"] for i in status(one)["instances"] if i["name"] == name) == 0
    ansible.play("drain.yml", *target, "-e", "undo=true")
    with load(one, held=40, connects=1):
        evicted = ansible.play("drain.yml", *target, "-e", "rate=1000")
        assert evicted.code == 0, evicted.output
        assert next(i["connections"] for i in status(one)["instances"] if i["name"] == name) == 0
    undone = ansible.play("drain.yml", *target, "-e", "undo=true")
    assert undone.code == 0, undone.output


def test_drain_and_undrain_an_instance(one: Host, ansible: Ansible) -> None:
    name = next(i["name"] for i in status(one)["instances"] if i["slots"])
    target = f"instance=echo/{name}"
    done = ansible.play("drain.yml", "--limit", "one", "-e", target)
    assert done.code == 0, done.output
    drained = next(i for i in status(one)["instances"] if i["name"] == name)
    assert (drained["wanted"], drained["slots"], drained["connections"]) == ("drained", 0, 0)
    again = ansible.play("drain.yml", "--limit", "one", "-e", target)
    assert again.changed == {"one": 0}, again.output
    looked = ansible.play("drain.yml", "--limit", "one", "-e", target, "--check")
    assert looked.code == 0, looked.output
    back = ansible.play("drain.yml", "--limit", "one", "-e", target, "-e", "undo=true")
    assert back.code == 0, back.output
    assert next(i for i in status(one)["instances"] if i["name"] == name)["slots"] == 2048
    alone = ansible.play("drain.yml", "-e", target)
    assert "say where and what" in alone.output, "never all boxes at once by mistake"


@pytest.fixture
def joined(deployed: dict[str, Host], ansible: Ansible) -> Iterator[None]:
    """Make host two a remote instance of host one's echo, and undo that."""
    config = copy.deepcopy(ansible.config)
    remote = f"{deployed['two'].address}:7000"
    config["service"]["echo"] |= {
        "listen": ["0.0.0.0:7000"],
        "remote": [remote],
        "release": status(deployed["one"])["release"],
    }
    ansible.write_inventory(portfleet_config=config)
    done = ansible.play("site.yml", "--limit", "one")
    assert done.code == 0, done.output
    yield
    ansible.write_inventory()
    done = ansible.play("site.yml", "--limit", "one")
    assert done.code == 0, done.output


def test_a_service_migrates_to_the_other_box(
    joined: None, deployed: dict[str, Host], ansible: Ansible, measured: Callable[[str], None]
) -> None:
    one, two = deployed["one"], deployed["two"]
    before = sum(i["connections"] for i in status(two)["instances"])
    with load(one, held=0) as clients:
        to = ["-e", "to=two", "-e", f"to_address={two.address}"]
        looked = ansible.play("migrate.yml", "-e", "service=echo", "-e", "from=one", *to, "--check")
        assert looked.code == 0, looked.output
        done = ansible.play("migrate.yml", "-e", "service=echo", "-e", "from=one", *to)
        assert done.code == 0, done.output
    measured(f"migrate.yml: {done.seconds:.1f} s, {clients}")
    assert (clients.failed, before) == (0, 0), clients.report
    slots = {i["name"]: i["slots"] for i in status(one)["instances"] if i["slots"]}
    assert slots == {"echo-remote-1": 4096}
    with load(one, held=50, connects=1):
        assert sum(i["connections"] for i in status(two)["instances"]) >= 50
        assert sum(i["connections"] for i in status(one)["instances"] if i["address"] == "local") == 0
    for name in [i["name"] for i in status(one)["instances"] if i["wanted"] == "serving" and i["address"] == "local"]:
        one.run(f"portfleet migrate echo/{name} {name}")
