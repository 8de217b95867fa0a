"""What a deployed host is like, looked at with testinfra over ssh."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from deploy import Ansible
from nspawn import Host
from support.booted import ask

pytestmark = pytest.mark.host

NETWORK_SYSCTLS = {
    "net.netfilter.nf_conntrack_tcp_be_liberal": 1,
    "net.netfilter.nf_conntrack_tcp_timeout_established": 86400,
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": 14400,
    "net.netfilter.nf_conntrack_tcp_timeout_last_ack": 300,
    "net.core.somaxconn": 4096,
    "net.ipv4.tcp_max_syn_backlog": 8192,
}
#: Bits of linux/capability.h.
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "SYS_PTRACE": 19}
CAPABILITIES |= {"SYS_NICE": 23}


@pytest.fixture(params=["one", "two"])
def box(request: pytest.FixtureRequest, deployed: dict[str, Host], ansible: Ansible) -> Any:
    """Return testinfra's view of a host."""
    import testinfra

    host = deployed[request.param]
    options = ansible.inventory.with_name("ssh_config")
    options.write_text(
        f"Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        f"  IdentityFile {host.key}\n"
    )
    return testinfra.get_host(f"ssh://root@{host.address}", ssh_config=str(options))


def main_pid(box: Any) -> int:
    """Return supervisord's process."""
    return int(box.check_output("systemctl show -P MainPID portfleet.service"))


def proc_status(box: Any, pid: int) -> dict[str, str]:
    """Give /proc/PID/status."""
    lines = box.file(f"/proc/{pid}/status").content_string.splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_packages(box: Any) -> None:
    for name in ("nftables", "libnftables1", "conntrack", "logrotate"):
        assert box.package(name).is_installed
    assert box.file("/usr/local/bin/portfleet").linked_to == "/opt/portfleet/bin/portfleet"


def test_the_unit(box: Any) -> None:
    unit = box.service("portfleet")
    assert unit.is_running
    assert unit.is_enabled
    assert box.check_output("systemctl is-system-running") == "running", box.check_output("systemctl --failed")
    redis = box.service("redis-server")
    assert not redis.is_running, "the package's own redis is not the fleet's"


def test_supervisord_has_the_rights_it_needs_and_no_others(box: Any) -> None:
    status = proc_status(box, main_pid(box))
    assert int(status["CapBnd"], 16) == sum(1 << bit for bit in CAPABILITIES.values())
    assert status["NoNewPrivs"] == "1"
    limits = box.file(f"/proc/{main_pid(box)}/limits").content_string
    # 65,536 is asked for; a machine that allows less gives what it can
    assert int(limits.split("Max open files")[1].split()[1]) >= 4064


def test_the_watcher_alone_comes_before_busy_instances(box: Any) -> None:
    control = "/opt/portfleet/bin/supervisorctl -c /var/lib/portfleet/supervisord.conf pid"
    watcher = box.check_output(f"{control} portfleet-watch")
    assert box.check_output(f"ps -o nice= -p {watcher}").strip() == "-20"
    for name in ("echo-blue-1", "kv-blue-1"):
        assert box.check_output(f"ps -o nice= -p $({control} {name})").strip() == "0"
    events = map(json.loads, box.check_output("portfleet events --json --since 1d").splitlines())
    assert [event for event in events if event["kind"] == "unprivileged"] == []


def test_one_that_runs_out_of_memory_does_not_end_the_unit(box: Any) -> None:
    shown = box.check_output("systemctl show -p OOMPolicy -p KillMode portfleet").splitlines()
    assert sorted(shown) == ["KillMode=process", "OOMPolicy=continue"]


def test_instances_have_no_rights_at_all(box: Any) -> None:
    services = json.loads(box.check_output("portfleet status --json"))["services"]
    pids = [one["pid"] for service in services for one in service["instances"] if one["pid"]]
    assert len(pids) == 4
    uid = box.user("portfleet").uid
    for pid in pids:
        status = proc_status(box, pid)
        assert status["Uid"].split() == [str(uid)] * 4
        assert int(status["CapEff"], 16) == 0
        assert box.run(f"test -w /proc/{pid}/root/etc").rc != 0, "/etc is read-only to it"


def test_ports_and_rules(box: Any) -> None:
    for port in (7100, 7101, 7200, 7201):
        assert box.socket(f"tcp://0.0.0.0:{port}").is_listening or box.socket(f"tcp://:::{port}").is_listening
    rules = box.check_output("nft list table inet portfleet")
    for words in ("chain service-echo", "chain echo-blue-1", "chain kv-blue-2", "7100-7107", "7200-7207"):
        assert words in rules


def test_an_instance_cannot_be_reached_past_the_balancer(deployed: dict[str, Host]) -> None:
    assert ask(deployed["one"], port=7100, message="x\n") == [None]


def test_sysctls_are_what_can_be_read(box: Any) -> None:
    for name, value in NETWORK_SYSCTLS.items():
        assert box.sysctl(name) == value


def test_doctor_finds_nothing_broken(box: Any) -> None:
    found = box.run("portfleet doctor")
    assert found.rc == 0, found.stdout
    assert found.stdout.splitlines()[-1].startswith("0 broken, "), found.stdout


def test_a_request_by_ipv6(deployed: dict[str, Host]) -> None:
    host = deployed["one"]
    command = ["bash", "-c", f"exec 3<>/dev/tcp/{host.address6}/7000; echo six >&3; head -1 <&3"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout == "v1 six\n"


def test_logs_are_rotated_and_go_on(box: Any) -> None:
    assert box.run("logrotate --debug /etc/logrotate.d/portfleet").rc == 0
    log = box.file("/var/log/portfleet/supervisord.log")
    before = box.check_output("stat -c %i /var/log/portfleet/supervisord.log")
    box.check_output("logrotate --force /etc/logrotate.d/portfleet")
    # the watcher's program is restarted, which supervisord notes in its new file
    box.check_output("/opt/portfleet/bin/supervisorctl -c /var/lib/portfleet/supervisord.conf restart portfleet-watch")
    assert box.check_output("stat -c %i /var/log/portfleet/supervisord.log") != before
    assert "portfleet-watch" in log.content_string
