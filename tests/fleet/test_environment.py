"""What instances have in their environment: what the config says and secrets, and nothing of whoever ran `up`."""

from __future__ import annotations

import pytest

from support.fleet_box import HOME, REDIS, FleetBox, fleet_box
from support.rights import needs_another_user

CONFIG = REDIS.replace("instances = 4", 'instances = 1\nenvironment_file = "kv.env"\nenvironment = { A = "config" }')
SHELL = {
    "AWS_SECRET_ACCESS_KEY": "leaked",
    "https_proxy": "http://proxy",
    "HOME": "/root/x",
    "LD_LIBRARY_PATH": "/nope",
}


def environment(box: FleetBox, name: str = "kv-blue-1") -> dict[str, str]:
    """Return the environment of an instance's process."""
    pid = box.status()[name]["pid"]
    text = box.boxes.host.run("cat", f"/proc/{pid}/environ").stdout
    return dict(line.split("=", 1) for line in text.split("\0") if line)


def put(box: FleetBox, text: str, mode: str = "600") -> None:
    box.boxes.host.run("sh", "-c", f"cat > {HOME}/kv.env && chmod {mode} {HOME}/kv.env", text=text)


@needs_another_user
def test_it_is_defined_and_has_the_secrets_which_are_nowhere_else() -> None:
    with fleet_box() as box:
        box.write(CONFIG.replace("[service.kv]", '[service.kv]\nuser = "nobody"', 1))
        put(box, "TOKEN=hush-1\nA=file\n", mode="644")
        refused = box.portfleet("check", check=False)
        assert refused.returncode == 2 and "service.kv.environment_file" in refused.stderr, refused
        assert "chmod 600" in refused.stderr
        put(box, "TOKEN=hush-1\nA=file\n")
        started = box.portfleet("up", env=SHELL)
        # redis overwrites its environment with its title, so the variables are those of its start
        shown = box.boxes.host.run("cat", f"{HOME}/lib/programs/kv-blue-1.conf").stdout
        assert 'TOKEN="hush-1"' in shown and 'A="config"' in shown and 'HOME="/nonexistent"' in shown

        put(box, "TOKEN=hush-2\n")
        plan = box.portfleet("plan", "--check", check=False)
        assert plan.returncode == 6 and "restart kv-blue-1" in plan.stdout
        said = [
            started,
            plan,
            box.portfleet("apply", "--yes"),
            box.portfleet("history"),
            box.portfleet("status", "--json"),
        ]
        box.settled()
        assert [one for one in said if "hush" in one.stdout + one.stderr] == []
        found = box.boxes.host.run("grep", "-rl", "hush", HOME, "--include=*", check=False).stdout.split()
        assert sorted(found) == [f"{HOME}/kv.env", f"{HOME}/lib/programs/kv-blue-1.conf"], found
        others = box.boxes.host.run("find", f"{HOME}/lib", f"{HOME}/run", "-type", "f", "-perm", "/077").stdout
        assert others == "", "no derived file is more readable than fleet.toml may be"


@pytest.mark.long
def test_nothing_of_the_operators_shell_comes_through() -> None:
    with fleet_box() as box:
        box.write("""
[service.kv]
listen = [":6000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:whoami"]
environment = { A = "config" }
ports = "6100-6103"
instances = 1
""")
        box.portfleet("up", env=SHELL)
        found = environment(box)
        assert not found.keys() & {"AWS_SECRET_ACCESS_KEY", "https_proxy", "LD_LIBRARY_PATH"}, found
        assert (found["A"], found["HOME"], found["LANG"], found["USER"]) == ("config", "/root", "C.UTF-8", "root")
        assert found["PATH"].endswith("/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        named = {name for name in found if not name.startswith(("PORTFLEET_", "SUPERVISOR_"))}
        assert named == {"A", "HOME", "LANG", "LOGNAME", "PATH", "PYTHONUNBUFFERED", "SHELL", "USER"}


def test_processors_and_memory_are_limited_and_the_daemon_is_the_process_that_supervisord_started() -> None:
    with fleet_box() as box:
        box.write(REDIS.replace("instances = 4", 'instances = 1\ncpus = "0"\nmemory_max = "128M"'))
        box.portfleet("up")
        pid = box.status()["kv-blue-1"]["pid"]
        host = box.boxes.host
        assert "redis-server" in host.run("cat", f"/proc/{pid}/comm").stdout
        assert "Cpus_allowed_list:\t0\n" in host.run("cat", f"/proc/{pid}/status").stdout
        assert "Max data size             134217728" in host.run("cat", f"/proc/{pid}/limits").stdout
        fill = "for i = 1, 300 do redis.call('SET', i, string.rep('x', 1000000)) end"
        host.run("redis-cli", "-p", "6100", "EVAL", fill, "0", check=False)
        assert host.run("redis-cli", "-p", "6100", "GET", "300", check=False).stdout.strip() == ""
        box.wait_state("kv-blue-1", "ready")
