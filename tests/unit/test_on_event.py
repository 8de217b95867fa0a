"""The command on events: whatever it does, it does to its own process, and what it did not get is counted."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from portfleet.core.events import Event, make
from portfleet.store.log import Log
from portfleet.watch.event_command import EventCommand
from portfleet.watch.event_runner import run
from support.fleets import ECHO, machine, problems
from support.sandbox import wait_for

LINE = b'{"number": 7}\n'


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ("true", ""),  # does not read what it is given
        ("exit 3", "exit status 3"),
        ("echo no such host >&2; exit 6", "exit status 6: no such host"),
        ("kill -TERM $$", "ended by SIGTERM"),
        ("sleep 100 2>&1 >/dev/null & true", ""),  # leaves what holds standard error behind
        ("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1", "exit status 1: " + 200 * "x"),
    ],
)
def test_one_command_is_run_and_what_is_wrong_with_it_is_told(script: str, trouble: str) -> None:
    began = time.monotonic()
    assert run(shell(script), LINE) == trouble
    assert time.monotonic() - began < 9, "it was not the time-out that ended it"


def test_a_command_that_is_not_there_is_told() -> None:
    assert run(("/no/such",), LINE) == "/no/such: No such file or directory"


@pytest.mark.parametrize("how", ["sleep 1000", "sleep 1000 & wait", "yes >&2", "trap '' TERM; exec 2>&-; sleep 1000"])
def test_a_command_that_hangs_is_killed_with_what_it_has_started(tmp_path: Path, how: str) -> None:
    pid = tmp_path / "pid"
    assert run(shell(f"echo $$ > {pid}; {how}"), LINE, seconds=0.3) == "took longer than 0.3 s and was killed"
    group = int(pid.read_text())
    wait_for("its group is gone", lambda: not group_of(group))


def group_of(group: int) -> list[int]:
    """Return the processes of a group."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _group(int(name)) == group]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


class Told:
    """What the log was told, and the command that is given events; ``words`` is what is configured."""

    def __init__(self, words: tuple[str, ...] | None) -> None:
        self.words, self.events = words, list[Event]()
        log = Log(as_json=False, file=io.StringIO(), note=self.events.append)
        self.command = EventCommand(lambda: self.words, log, most=50)

    def kinds(self) -> list[str]:
        self.command.go_on()
        return [event.kind for event in self.events]

    def give(self, count: int, *, kind: str = "blind") -> None:
        for number in range(count):
            self.command.take(make(kind, "now", {"reason": "full", "n": number}))
            self.command.go_on()


@contextmanager
def told(words: tuple[str, ...] | None) -> Iterator[Told]:
    found = Told(words)
    try:
        yield found
    finally:
        found.command.close(0)


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """Return a directory that the user nobody can write to."""
    for path in [tmp_path, *tmp_path.parents]:
        if path.owner() == "root" and not stat.S_IMODE(path.stat().st_mode) & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    folder = tmp_path / "open"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    return folder


def test_each_event_is_given_once_in_order_by_an_unprivileged_user(open_path: Path) -> None:
    with told(None) as one:
        one.give(3)  # before the config is known
        one.words = shell(f"cat >> {open_path}/got; id -u > {open_path}/who")
        one.give(2)
        got = open_path / "got"
        wait_for("all are given", lambda: one.kinds() == [] and got.exists() and got.read_text().count("\n") == 5)
        assert [json.loads(line)["n"] for line in got.read_text().splitlines()] == [0, 1, 2, 0, 1]
        wait_for("it says who it is", lambda: (open_path / "who").read_text().strip())
        assert int((open_path / "who").read_text()) == (65534 if os.geteuid() == 0 else os.geteuid())


def test_one_that_fails_is_told_once_and_again_when_it_works(open_path: Path) -> None:
    with told(shell(f"test -e {open_path}/works")) as one:
        one.give(5)
        wait_for("it fails", lambda: one.kinds() == ["event-command-failed"])
        assert one.events[0].reason == "exit status 1"
        (open_path / "works").touch()
        one.give(1, kind="event-command-failed")  # which it must not get
        one.give(1)
        wait_for("it works", lambda: one.kinds() == ["event-command-failed", "event-command-works"])


def test_what_a_flood_costs_is_counted_and_told_afterwards(open_path: Path) -> None:
    with told(shell(f"echo >> {open_path}/got; while [ ! -e {open_path}/go ]; do sleep 0.01; done")) as one:
        one.give(1000)
        assert one.kinds() == [], "it is not waited for: the first has not come to its time-out"
        (open_path / "go").touch()
        wait_for("it is told", lambda: "events-missed" in one.kinds(), seconds=60)
        missed, got = one.events[-1].more["count"], open_path / "got"
        assert isinstance(missed, int) and 300 < missed < 950
        wait_for("the rest is given", lambda: one.kinds() and len(got.read_text()) == 1000 - missed, seconds=60)


def test_another_command_takes_the_place_of_one_that_hangs(open_path: Path) -> None:
    with told(shell(f"echo $$ > {open_path}/pid; sleep 1000")) as one:
        one.give(1)
        pid = wait_for("it hangs", lambda: one.kinds() == [] and _number(open_path / "pid"))
        one.words = shell(f"touch {open_path}/other")
        one.give(1)
        wait_for("the other is run", lambda: one.kinds() == [] and (open_path / "other").exists())
        wait_for("the first is gone", lambda: not group_of(pid))


#: Runs the command's process, which gets SIGTERM as soon as it has a command and before it knows that.
EARLY = """
import os, signal, subprocess, sys
from portfleet.watch import event_runner

class Early(subprocess.Popen):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        print(self.pid, file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Early
event_runner.main()
"""


def test_a_command_that_has_only_just_begun_is_ended_too() -> None:
    argv = [sys.executable, "-c", EARLY, *shell("sleep 1000")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        os.write(process.stdin.fileno(), LINE + LINE)
        assert process.wait(60) == 0
        pid, *more = process.stderr.read().split()
    assert not more, "it begins no other"
    # The shell's child dies by the same signal, at a moment of its own.
    wait_for("its group is gone", lambda: not group_of(int(pid)))


def _number(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def test_a_command_that_is_not_there_or_cannot_be_run_unprivileged_is_a_problem_of_the_config() -> None:
    config = '[fleet]\non_event = ["/no/such"]\n' + ECHO
    assert [(p.path, p.message) for p in problems(config)] == [("fleet.on_event", '"/no/such" is not found')]
    found = problems(config.replace("/no/such", "redis-server"), machine(mapped=False))
    assert [p.message for p in found] == ['there is no user "nobody" to run it as']
    assert problems(config.replace("/no/such", "redis-server"), machine(mapped=False, is_root=False)) == ()


def recipes(word: str) -> list[str]:
    """Return the scripts of docs/events.md that have a word."""
    page = (Path(__file__).parents[2] / "docs/events.md").read_text()
    return [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n)+", page, re.MULTILINE) if word in block]


@pytest.mark.skipif(not shutil.which("jq"), reason="the recipe needs jq")
def test_the_recipe_of_the_docs_mails_errors_alone_whatever_they_say(open_path: Path) -> None:
    (script,) = recipes("| mail ")
    mail = open_path / "mail"
    mail.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {open_path}/arguments; cat > {open_path}/body\n')
    mail.chmod(0o755)
    bad = f'exit 3; "$(touch {open_path}/owned)" `id`\n~!touch {open_path}/owned'
    for kind in ("ejected", "given-up"):
        assert not (open_path / "body").exists(), "a warning is no mail"
        told = make(kind, "now", {"instance": "echo-blue-1", "reason": bad}).to_json()
        assert run(shell(f"PATH={open_path}:$PATH\n{script}"), json.dumps(told).encode() + b"\n") == ""
    assert (open_path / "arguments").read_text().splitlines() == [
        "-s",
        f"portfleet: {told['words']}",
        "ops@example.net",
    ]
    assert json.loads((open_path / "body").read_text()) == told and not (open_path / "owned").exists()


class Server(http.server.BaseHTTPRequestHandler):
    """Takes what is posted."""

    got: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="the recipes need jq and curl")
def test_the_recipes_of_the_docs_send_what_they_say() -> None:
    blocks = recipes("curl")
    lines = [
        json.dumps(make(kind, "now", {"instance": "echo-blue-1", "reason": 'it "died"'}).to_json()).encode() + b"\n"
        for kind in ("ejected", "starting", "serving")
    ]
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            for block in blocks:
                script = re.sub(r"https://\S+", f"http://127.0.0.1:{server.server_port}/", block)
                assert [run(shell(script), line) for line in lines] == ["", "", ""]
        finally:
            server.shutdown()
    chat, alarms = Server.got[:3], Server.got[3:]
    assert chat[0] == {"text": 'now ejected: echo-blue-1 gets no new connections: it "died"'}
    assert [alarm["event_action"] for alarm in alarms] == ["trigger", "resolve"]
    assert {alarm["dedup_key"] for alarm in alarms} == {"portfleet-echo-blue-1"}
    assert alarms[0]["payload"]["severity"] == "warning" and len(blocks) == 2
