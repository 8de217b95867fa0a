"""Probes' commands as processes: their exit status and last words, and that nothing is left of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from math import inf
from pathlib import Path

import pytest

from portfleet.core.policies import Probe
from portfleet.daemons.exchange import Command, Port
from portfleet.daemons.probe import Exec, Target
from portfleet.daemons.talk import carry_out
from portfleet.linux import processes
from portfleet.watch.prober import Prober
from support.rights import needs_another_user
from support.sandbox import wait_for


def shell(script: str, *, user: str | None = None, environment: Mapping[str, str] | None = None) -> Command:
    return Command(("sh", "-c", script), environment or {}, user, None)


def run(script: str, *, status: int = 0, seconds: float = 5.0, user: str | None = None) -> str:
    return carry_out([(Exec(shell(script, user=user, environment={"A": "b c"}), status), seconds)])[0]


def test_its_exit_status_counts_and_its_last_words_are_told() -> None:
    assert run("exit 0") == "" and run("exit 3", status=3) == ""
    assert run("echo first; echo '  '; echo why >&2; exit 3") == "probe sh: exit status 3, expected 0: why"
    assert run("kill -KILL $$") == "probe sh: exit status -9, expected 0"
    assert run("printf '\\033[31mred\\n'; exit 1").endswith("red") and "\033" not in run(
        "printf '\\033[31mred'; exit 1"
    )
    (found,) = carry_out([(Exec(Command(("/no/such",), {}, None, None), 0), 5)])
    assert "exit status 127" in found, found


def test_it_has_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET", "leaked")
    assert run('test "$A" = "b c" && test -z "$AWS_SECRET" && test "$PWD" = / && test -n "$HOME"') == ""


@needs_another_user
def test_it_runs_as_the_services_user() -> None:
    assert run('test "$(id -un):$(id -Gn):$HOME" = nobody:nogroup:/nonexistent', user="nobody") == ""


@pytest.mark.parametrize("script", ["sleep 60", "trap '' TERM INT HUP; sleep 60 & sleep 60", "yes"])
def test_one_that_does_not_end_is_killed_with_all_that_it_has_started(script: str, tmp_path: Path) -> None:
    began = time.monotonic()
    verdict = run(f"echo $$ > {tmp_path}/pid; {script}", seconds=0.3)
    assert time.monotonic() - began < 3
    pid = int((tmp_path / "pid").read_text())
    if script != "yes":  # which has met the end of the room for its output
        assert verdict == "probe sh: no answer within 300 ms"
    wait_for("nothing of it is left", lambda: not [p for p in processes.table().values() if p.group == pid])


def test_what_it_leaves_in_the_background_is_ended_with_it(tmp_path: Path) -> None:
    assert run(f"sleep 60 & echo $! > {tmp_path}/pid") == ""
    pid = int((tmp_path / "pid").read_text())
    wait_for("it has ended", lambda: processes.read(pid) is None)


def test_the_prober_runs_few_at_a_time_and_is_never_held_up() -> None:
    results, due = dict[str, str](), dict[str, float]()
    prober = Prober(lambda name, trouble, _: results.update({name: trouble}), time.monotonic, lambda _: None)
    probe = Probe(exec=("sh",), interval=60.0, timeout=0.4)
    names = [f"hung-{number}" for number in range(6)]
    prober.aim(Target(name, Port("127.0.0.1", 1), None, probe, shell("sleep 60")) for name in names)
    while (turn := prober._turns.take(inf)) is not None:  # all are due at once
        due[turn[0]] = 0.0
    for name in due:
        prober._turns.put(name, 0.0, 60.0)
    slowest, most, deadline = 0.0, 0, time.monotonic() + 20
    while len(results) < 6 and time.monotonic() < deadline:
        began = time.thread_time()
        prober.tick()
        slowest, most = max(slowest, time.thread_time() - began), max(most, len(prober._probes))
        time.sleep(0.005)
    assert results == dict.fromkeys(names, "probe sh: no answer within 400 ms")
    assert most == 4
    assert slowest < 0.1, "of processor time, to start four commands at once"
    prober.aim([])

    def sleeping() -> list[int]:
        return [pid for pid in processes.tree(os.getpid()) if b"sleep" in processes.command_line(pid)]

    wait_for("none sleeps any more", lambda: not sleeping())
