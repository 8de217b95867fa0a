"""Releases over two hosts under clients' load: shipped, cut over, stopped by a failure, finished after a reboot."""

from __future__ import annotations

import copy
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
    """Give the releases that 20 clients are answered by."""
    return {(reply or "nobody").split()[0] for reply in ask(host, count=20, message="x\n")}


def test_a_release_over_two_hosts_fails_no_request(
    deployed: dict[str, Host], ansible: Ansible, measured: Callable[[str], None]
) -> None:
    with load(deployed["one"]) as first, load(deployed["two"]) as second:
        done = ansible.play("release.yml", *release(ansible, "v2"))
        assert done.code == 0, done.output
        again = ansible.play("release.yml", *release(ansible, "v2"))
        assert (again.code, again.changed) == (0, {"one": 0, "two": 0}), again.output
        back = ansible.play("rollback.yml", "-e", "service=echo")
        assert back.code == 0, back.output
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


def test_drain_and_undrain_an_instance(one: Host, ansible: Ansible) -> None:
    name = next(i["name"] for i in status(one)["instances"] if i["slots"])
    target = f"instance=echo/{name}"
    done = ansible.play("drain.yml", "--limit", "one", "-e", target)
    assert done.code == 0, done.output
    drained = next(i for i in status(one)["instances"] if i["name"] == name)
    assert (drained["wanted"], drained["slots"], drained["connections"]) == ("drained", 0, 0)
    again = ansible.play("drain.yml", "--limit", "one", "-e", target)
    assert again.changed == {"one": 0}, again.output
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
        done = ansible.play("migrate.yml", "-e", "service=echo", "-e", "from=one", "-e", "to=two")
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
