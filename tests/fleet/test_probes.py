"""Foreign daemons that hang, or are not ready yet, are noticed: by HTTP, a command, or what they answer."""

from __future__ import annotations

import json
import sys

import pytest

from support.fleet_box import HOME, REDIS, FleetBox, fleet_box
from support.fleets import ECHO_TWO
from support.rights import needs_another_user
from support.sandbox import wait_for
from support.watched import signal, wait_event

#: Answers by HTTP what its file says, and does so as long as it runs.
SERVER = """
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(open(sys.argv[2]).read()) if self.path == "/healthz?a=b" else 404)
        self.end_headers()
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server(("::", int(sys.argv[1])), Handler).serve_forever()
"""


def put(box: FleetBox, path: str, text: str) -> None:
    box.boxes.host.run("sh", "-c", f"cat > {HOME}/{path} && chmod 755 {HOME} {HOME}/{path}", text=text)


@pytest.mark.long
def test_an_http_daemon_that_hangs_or_answers_badly_is_ejected_and_comes_back() -> None:
    with fleet_box() as box:
        put(box, "server.py", SERVER)
        for number in (1, 2):
            put(box, f"app-blue-{number}", "204")
        box.write(f"""
[service.app]
listen = [":7000"]
command = ["{sys.executable}", "{HOME}/server.py", "{{port}}", "{HOME}/{{instance}}"]
ports = "7100-7103"
instances = 2
[service.app.probe]
http = "/healthz?a=b"
status = 204
interval = "300ms"
timeout = "2s"
""")
        box.portfleet("up")
        wait_event(box, "watching")
        put(box, "app-blue-1", "503")
        out = wait_event(box, "ejected", instance="app-blue-1")
        assert "HTTP status 503, expected 204" in out.fields["reason"], out
        put(box, "app-blue-1", "204")
        back = wait_event(box, "serving", instance="app-blue-1", after=out)
        signal(box, box.status()["app-blue-2"]["pid"], "STOP")
        out = wait_event(box, "ejected", instance="app-blue-2", after=back)
        assert "no answer within 2000 ms" in out.fields["reason"], out
        signal(box, box.status()["app-blue-2"]["pid"], "CONT")
        wait_event(box, "serving", instance="app-blue-2", after=out)


@pytest.mark.long
@needs_another_user
def test_a_command_runs_as_the_services_user_and_what_hangs_is_noticed_and_nothing_stays() -> None:
    with fleet_box() as box:
        config = REDIS.replace("instances = 4", 'instances = 2\nuser = "nobody"')
        script = f"id -un > {HOME}/probe/$1; redis-cli -p $2 ping | grep -q PONG || {{ echo no pong; exit 7; }}"
        box.boxes.host.run("install", "-d", "-m", "755", "-o", "nobody", f"{HOME}/probe")
        put(box, "probe.sh", f"#!/bin/sh\n{script}\n")
        ask = f'exec = ["{HOME}/probe.sh", "{{instance}}", "{{port}}"]\ninterval = "500ms"\ntimeout = "2s"\n'
        box.write(config.replace('send = "PING\\r\\n"\nexpect = "PONG"\n', ask))
        box.portfleet("up")
        wait_event(box, "watching")
        wait_for("it was run", lambda: box.boxes.host.path(f"{HOME}/probe/kv-blue-2").exists())
        assert box.boxes.host.run("cat", f"{HOME}/probe/kv-blue-2").stdout == "nobody\n"
        signal(box, box.status()["kv-blue-1"]["pid"], "STOP")
        out = wait_event(box, "ejected", instance="kv-blue-1", seconds=40)
        assert "probe.sh: no answer within 2000 ms" in out.fields["reason"], out
        assert box.status()["kv-blue-2"]["state"] == "ready"
        signal(box, box.status()["kv-blue-1"]["pid"], "CONT")
        wait_event(box, "serving", instance="kv-blue-1", after=out)
        box.portfleet("down", "--yes")
        wait_for("nothing is left", lambda: not [w for w in box.processes().values() if "redis-cli" in w])


@pytest.mark.long
def test_a_redis_that_loads_its_data_is_not_ready() -> None:
    with fleet_box() as box:
        box.boxes.host.run("mkdir", "-p", f"{HOME}/data")
        command = f'["redis-server", "--port", "{{port}}", "--dir", "{HOME}/data", "--protected-mode", "no"]'
        config = REDIS.replace('["redis-server", "--port", "{port}", "--save", "", "--protected-mode", "no"]', command)
        config = config.replace("instances = 4", 'instances = 1\nstart_timeout = "40s"')
        box.write(config)
        box.portfleet("up")
        fill = "for i = 1, 20000 do redis.call('SET', i, string.rep('x', 100)) end"
        box.boxes.host.run("redis-cli", "-p", "6100", "EVAL", fill, "0")
        box.boxes.host.run("redis-cli", "-p", "6100", "SAVE")
        box.portfleet("down", "--yes")
        slow = command.replace(
            '"--dir"', '"--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024", "--dir"'
        )
        box.write(config.replace(command, slow))
        up = box.boxes.host.popen(*box.argv("up"))
        said = wait_for(
            "it loads", lambda: "LOADING" in box.boxes.host.run("redis-cli", "-p", "6100", "PING", check=False).stdout
        )
        seen = box.status()["kv-blue-1"]
        assert said and seen["state"] != "ready" and seen["why"].startswith("port 6100: "), seen
        assert up.wait(60) == 0
        box.wait_state("kv-blue-1", "ready")


@pytest.mark.long
def test_check_and_doctor_say_of_each_service_whether_a_daemon_that_hangs_is_noticed() -> None:
    with fleet_box() as box:
        connect = (
            REDIS.split("[service.kv.probe]")[0]
            .replace("service.kv", "service.silent")
            .replace("60", "62")
            .replace("61", "63")
        )
        ours = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:whoami"]
ports = "7100-7103"
instances = 1
"""
        box.write(REDIS + connect.replace("instances = 4", "instances = 1") + ours)
        notes = json.loads(box.portfleet("check", "--json").stdout)["notes"]
        assert {note.split(":")[0] for note in notes} == {"silent", "echo"}
        assert all("set probe.send, probe.http or probe.exec" in note for note in notes)
        box.portfleet("up")
        found = json.loads(box.portfleet("doctor", "--json", check=False).stdout)["findings"]
        severity = {one["about"]: one["severity"] for one in found if one["about"].startswith("probe of")}
        assert severity == {"probe of kv": "fine", "probe of silent": "warning", "probe of echo": "fine"}


@pytest.mark.long
def test_a_command_has_the_secrets_that_its_instance_was_started_with() -> None:
    with fleet_box() as box:
        secrets = "cat > kv.env; chmod 600 kv.env"
        box.boxes.host.run("sh", "-c", f"mkdir -p {HOME} && cd {HOME} && {secrets}", text='TOKEN=100% %(here)s "a" b\n')
        put(box, "probe.sh", f'#!/bin/sh\necho "$TOKEN" > {HOME}/seen && redis-cli -p $1 ping | grep -q PONG\n')
        ask = f'exec = ["{HOME}/probe.sh", "{{port}}"]\ninterval = "300ms"\ntimeout = "3s"\n'
        config = REDIS.replace("instances = 4", 'instances = 1\nenvironment_file = "kv.env"')
        box.write(config.replace('send = "PING\\r\\n"\nexpect = "PONG"\n', ask))
        box.portfleet("up")
        wait_for("it was run", lambda: told(box) == '100% %(here)s "a" b\n')
        box.boxes.host.run("sh", "-c", f"cd {HOME} && {secrets}; rm seen", text="TOKEN=new\n")
        wait_for("it is run again, as before", lambda: told(box) == '100% %(here)s "a" b\n')
        box.portfleet("apply", "--yes")
        wait_for("it is run as the instance is by now", lambda: told(box) == "new\n")


def told(box: FleetBox) -> str:
    """Return what the probe's command has written last."""
    return box.boxes.host.run("cat", f"{HOME}/seen", check=False).stdout


def test_probes_over_loopback_leave_nothing_in_conntracks_table() -> None:
    with fleet_box() as box:
        box.write(ECHO_TWO + '[service.echo.probe]\ninterval = "50ms"\n')
        box.portfleet("up")
        box.portfleet("plan")
        probes = "conntrack -L -p tcp -s 127.0.0.1 2>/dev/null | grep -c -E 'dport=710[0-3].* dport=' || true"
        wait_for("no entry is left", lambda: box.boxes.host.run("sh", "-c", probes).stdout.strip() == "0", seconds=5)
