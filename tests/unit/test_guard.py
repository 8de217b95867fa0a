"""What the watcher survives and what ends it: defects by what they cost, its self-check, and code that is loaded."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from portfleet.core.errors import PortfleetError
from portfleet.core.policies import Probe
from portfleet.daemons.exchange import Exchange, Port, Verdict
from portfleet.daemons.probe import Target
from portfleet.daemons.run import Run
from portfleet.daemons.talk import Talk
from portfleet.store.log import Log
from portfleet.watch.prober import Prober
from portfleet.watch.self_check import SelfCheck
from support.fake_watched import Watched, run


def test_what_goes_wrong_costs_what_it_is_about_and_is_logged_once_and_counted() -> None:
    file = io.StringIO()
    log = Log(as_json=True, file=file)
    for _ in range(3):
        for about in ("echo-blue-1", "echo-blue-2"):
            with log.costs(about):
                raise KeyError("connections")
        with log.costs("supervisord"):
            raise PortfleetError("supervisord does not answer")
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [line["at"] for line in lines] == ["echo-blue-1", "echo-blue-2", "supervisord"]
    unexpected = [line for line in lines if line["event"] == "unexpected-error"]
    assert [line["error"] for line in unexpected] == ["KeyError('connections')"] * 2
    assert all("Traceback" in line["traceback"] and __file__ in line["traceback"] for line in unexpected)
    assert {about: trouble.count for about, trouble in log.troubles.items()} == {"echo-blue-1": 3, "echo-blue-2": 3}


class OddTalk(Talk):
    """Fails in an unforeseen way."""

    def step(self) -> Verdict:
        raise ZeroDivisionError


class Odd(Prober):
    """Cannot probe one of its targets, in an unforeseen way."""

    def _talk(self, name: str, exchange: Exchange) -> Talk | Run:
        return OddTalk(exchange) if name == "odd" else super()._talk(name, exchange)


def test_a_defect_in_one_instances_probe_fails_that_probe_alone() -> None:
    told: list[tuple[str, str]] = []
    unexpected: list[str] = []
    prober = Odd(
        lambda name, trouble, _: told.append((name, trouble)),
        time.monotonic,
        lambda _: None,
        lambda name, _: unexpected.append(name),
    )
    probe = Probe(interval=0.01, timeout=1.0)
    prober.aim([Target(name, Port("127.0.0.1", 1), None, probe) for name in ("odd", "even")])
    deadline = time.monotonic() + 10
    while len({name for name, _ in told}) < 2 and time.monotonic() < deadline:
        time.sleep(prober.tick())
    assert dict(told)["even"].startswith("port 1: ")
    assert "ZeroDivisionError" in dict(told)["odd"] and {*unexpected} == {"odd"}


def test_a_defect_met_for_one_service_deals_its_slots_later_and_ends_nothing(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        point, times = watched.ejector.point, iter([True])

        def broken(*arguments: object, **named: object) -> int:
            if next(times, False):
                raise RecursionError("maximum recursion depth exceeded")
            return point(*arguments, **named)  # type: ignore[arg-type] # as it was called

        watched.ejector.point = broken  # type: ignore[method-assign] # the defect
        watched.judge.died(watched.roster.members["echo-blue-2"], "process 7 ended")
        async with asyncio.timeout(10):
            while "echo-blue-2" in watched.slots():
                await asyncio.sleep(0.01)
        assert "unexpected-error at=echo" in watched.log.getvalue()

    run(tmp_path, test)


def test_what_could_not_be_taken_in_is_taken_in_at_the_next_look(tmp_path: Path) -> None:
    async def test(watched: Watched) -> None:
        times = iter([True])

        def changed() -> None:
            if next(times, False):
                raise PortfleetError("the kernel has no memory")
            watched.judge.reloaded()

        watched.roster.changed = changed
        watched.change(canary=1)
        with pytest.raises(PortfleetError):
            watched.roster.reload()
        assert next(times, None) is None
        watched.roster.reload()
        watched.roster.changed = lambda: pytest.fail("it was taken in twice")
        watched.roster.reload()

    run(tmp_path, test)


#: A watcher that is alive for a moment and then stuck: in a system call, in C with the interpreter's lock, or stopped.
STUCK = """
import ctypes, sys, time
from pathlib import Path
from portfleet.store.log import Log
from portfleet.watch import self_check
self_check._STUCK = 0.5
check = self_check.SelfCheck(Path(sys.argv[1]), Log(as_json=False))
check.tell_before()
check.alive()
print("alive", flush=True)
if sys.argv[2] == "stopped":
    for _ in range(1000):
        time.sleep(0.01)
        check.alive()
elif sys.argv[2] == "sleeping":
    time.sleep(60)
else:
    ctypes.PyDLL(None).sleep(60)
"""


@pytest.mark.parametrize("how", ["sleeping", "in C", "stopped"])
def test_a_stuck_watcher_ends_itself_and_the_next_one_tells_it(how: str, tmp_path: Path) -> None:
    path = tmp_path / "watch.stacks"
    with subprocess.Popen([sys.executable, "-c", STUCK, str(path), how], stdout=subprocess.PIPE, text=True) as stuck:
        try:
            assert stuck.stdout is not None and stuck.stdout.readline() == "alive\n"
            if how == "stopped":
                os.kill(stuck.pid, signal.SIGSTOP)
                time.sleep(1.5)  # longer than it may be stuck: what is waited for is that time itself
                os.kill(stuck.pid, signal.SIGCONT)
            assert stuck.wait(10) == 1
        finally:
            stuck.kill()
    file = io.StringIO()
    log = Log(as_json=False, file=file)
    SelfCheck(path, log).tell_before()
    assert "watcher-ended" in file.getvalue() and "most recent call first" in file.getvalue()
    assert [*log.troubles] == ["the watcher"]
    SelfCheck(path, log).tell_before()
    assert file.getvalue().count("watcher-ended") == 1


def test_a_task_that_ends_takes_the_process_down_though_a_thread_hangs(tmp_path: Path) -> None:
    script = (
        "import sys, threading, time; from pathlib import Path; from portfleet.store.log import Log;"
        "from portfleet.watch.self_check import SelfCheck;"
        "threading.Thread(target=time.sleep, args=(60,)).start();"
        "SelfCheck(Path(sys.argv[1]), Log(as_json=False)).end('probes', ValueError('odd'))"
    )
    path = tmp_path / "watch.stacks"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1 and "task-ended task=probes" in done.stdout
    assert "probes: ValueError: odd" in path.read_text()


#: Once all is loaded, importing and reading templates fail: as while another version is being unpacked.
REPLACED = """
import asyncio, sys
from pathlib import Path
from portfleet.watch.preload import load_all
load_all()
import support.fake_watched as fakes
from portfleet.core.program import watch_program
from portfleet.supervise.ini import program_text
from portfleet.core.changes import SetInstance
from portfleet.dataplane.nft import text
from portfleet.store import templating

class Gone:
    def find_spec(self, name, *_):
        raise ModuleNotFoundError(f"{name} is being replaced")

async def test(watched):
    sys.meta_path[:] = [Gone()]
    templating._environment().loader.searchpath[:] = ["/nowhere"]
    watched.judge.died(watched.roster.members["echo-blue-2"], "process 7 ended")
    while "echo-blue-2" in watched.slots():
        await asyncio.sleep(0.01)
    watched.ejector.admit(watched.roster.members["echo-blue-2"].service, "echo-blue-2")
    program_text(watch_program(watched.paths, sys.executable))
    rule = watched.roster.members["echo-blue-2"].want.rule
    assert "echo-blue-2" in text.text((SetInstance(rule),), text.Book())
    assert "unexpected" not in watched.log.getvalue(), watched.log.getvalue()

fakes.run(Path(sys.argv[1]), test)
print("served")
"""


def test_nothing_is_imported_or_read_in_the_middle_of_an_ejection(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPLACED, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.stdout == "served\n", done.stderr


def test_a_log_that_no_process_reads_blocks_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from portfleet.store.log import Log;"
        "log = Log(as_json=False, fallback=Path(sys.argv[1]));"
        "[log('blind', number=number, reason='x' * 200) for number in range(1000)]"
    )
    path = tmp_path / "watch.log"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.wait(20) == 0  # the pipe holds some hundred lines
            assert process.stdout is not None
            first = process.stdout.read().decode().rpartition("\n")[0].splitlines()
        finally:
            process.kill()
    rest = path.read_text().splitlines()
    numbers = [int(line.split("number=")[1].split()[0]) for line in (*first, *rest)]
    assert numbers == list(range(1000)) and len(rest) > 100
