"""The watcher's decisions: health, back-off, limits, its log, its socket, and what it remembers of the rules."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.core.paths import Paths, resolve
from portfleet.core.policies import Probe
from portfleet.core.slots import Table
from portfleet.core.status import DaemonState, Status
from portfleet.daemons.exchange import Port
from portfleet.daemons.probe import Target
from portfleet.dataplane.interface import Room
from portfleet.dataplane.nft.cached import SlotCache
from portfleet.linux.processes import start_time
from portfleet.store.directories import make_directories
from portfleet.store.log import Log
from portfleet.supervise.adopted import alive, note, set_aside
from portfleet.supervise.exit_report import Ended, last_exit, last_lines
from portfleet.watch.deaths import Deaths
from portfleet.watch.health import Health, all_out
from portfleet.watch.limits import Descriptors, Near, judge
from portfleet.watch.prober import Prober
from portfleet.watch.restarts import Backoff
from portfleet.watch.server import serve


def test_health_falls_after_fall_failures_in_a_row_and_rises_after_rise_successes() -> None:
    health = Health(fall=3, rise=2)
    flips = [health.note(trouble) for trouble in ("x", "x", "", "x", "x", "x", "x", "", "x", "", "")]
    assert flips == [False, False, False, False, False, True, False, False, False, False, True]
    assert health.healthy


@given(st.lists(st.booleans()), st.integers(1, 5), st.integers(1, 5))
def test_health_never_flips_on_fewer_than_asked(results: list[bool], fall: int, rise: int) -> None:
    health, run, last = Health(fall, rise), 0, None
    for good in results:
        run = run + 1 if good == last else 1
        last = good
        was = health.healthy
        if health.note("" if good else "x"):
            assert good != was and run >= (fall if was else rise)


def test_all_out_counts_those_that_are_out_already() -> None:
    assert all_out({"a"}, set(), "a")
    assert all_out({"a", "b"}, {"b"}, "a")
    assert not all_out({"a", "b"}, set(), "a")


def test_backoff_doubles_to_its_cap_with_jitter_and_forgets_after_a_stable_run() -> None:
    backoff, now, waits = Backoff(random.Random(1)), 0.0, []
    for _ in range(2000):  # a crash loop of a day and a half
        waits.append(backoff.schedule(now))
        assert not backoff.is_due(now + waits[-1] - 0.01)
        now += waits[-1]
        assert backoff.is_due(now + 0.001)
    assert all(0.8 * 2**number <= wait <= 1.2 * 2**number for number, wait in enumerate(waits[:6]))
    assert all(48 <= wait <= 72 for wait in waits[10:]) and len(set(waits[10:])) > 100
    backoff.ran(59)
    assert backoff.schedule(now) > 40
    backoff.ran(61)
    assert backoff.schedule(now) <= 1.2


def room(used: int) -> Room:
    return Room(
        "conntrack", used, 1000, 0, f"conntrack holds {used} of 1,000 entries", "sysctl -w nf_conntrack_max=2000"
    )


CALM: dict[str, Any] = {
    "hazards": (), "room": room(10), "dropped": 0, "files": Descriptors(10, 1000), "processes": {}, "said": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "name", "hint"),
    [
        ({"room": room(900)}, "conntrack", "nf_conntrack_max=2000"),
        ({"dropped": 7}, "conntrack", "nf_conntrack_max=2000"),
        ({"files": Descriptors(950, 1000)}, "files", "fs.file-max=2000"),
        ({"processes": {"a": Descriptors(90, 100)}}, "descriptors:a", "LimitNOFILE"),
        ({"said": {"a": Status(DaemonState.READY, 95, 100)}}, "connections:a", "portfleet scale"),
    ],
)
def test_each_limit_is_named_with_what_raises_it(changed: dict[str, Any], name: str, hint: str) -> None:
    found: list[Near] = judge(**CALM | changed)
    assert [near.name for near in found] == [name]
    assert hint in found[0].hint


def test_what_is_not_near_is_not_warned_of() -> None:
    said = {"a": Status(DaemonState.READY, 0, 0), "b": Status(DaemonState.READY, 89, 100)}
    quiet = judge(**CALM | {"processes": {"a": Descriptors(89, 100)}, "said": said})
    assert quiet == []


def test_the_log_is_a_line_an_event_in_words_or_json() -> None:
    words, objects = io.StringIO(), io.StringIO()
    for as_json, file in ((False, words), (True, objects)):
        Log(as_json=as_json, file=file)("ejected", instance="echo-blue-1", reason='it says "no"\nmore', slots=7)
    line = words.getvalue()
    assert (
        line.endswith(' ejected instance=echo-blue-1 reason="it says \\"no\\"\\nmore" slots=7\n')
        and line.count("\n") == 1
    )
    found = json.loads(objects.getvalue())
    assert found["event"] == "ejected" and found["slots"] == 7 and found["time"].endswith("Z")


def test_the_log_goes_to_the_file_itself_when_nobody_reads_the_pipe(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from portfleet.store.log import Log\n"
        "log = Log(as_json=False, fallback=Path(sys.argv[1])); sys.stdin.readline()\n"
        "log('watching', instances=1); log('guardian')\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdout.close()
    child.stdin.write(b"\n")
    child.stdin.close()
    child.wait(timeout=20)
    assert [line.split(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines()] == [
        "watching instances=1",
        "guardian",
    ]


def test_a_lasting_trouble_is_logged_once_until_it_changes_or_is_over() -> None:
    file = io.StringIO()
    log = Log(as_json=False, file=file)
    for reason in ("x", "x", "y", "y"):
        log.once("blind", reason=reason)
    assert log.over("blind") and not log.over("blind")
    log.once("blind", reason="y")
    assert file.getvalue().count("\n") == 3


def test_the_socket_answers_and_malformed_input_does_no_harm(tmp_path: Path) -> None:
    async def talk() -> list[dict[str, object]]:
        server = await serve(tmp_path / "s", {"status": lambda request: {"asked": request.get("n")}})
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        answers = []
        for line in (
            b'{"command": "status", "n": 7}',
            b"{",
            b"[]",
            b'{"command": []}',
            b'{"command": "x"}',
            b"\xff",
            b"[" * 60_000,
        ):
            writer.write(line + b"\n")
            answers.append(json.loads(await reader.readline()))
        writer.write(b"x" * (1 << 17) + b"\n")
        assert await reader.read() == b""  # too long a line ends the connection, not the server
        writer.close()
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b'{"command": "status"}\n')
        answers.append(json.loads(await reader.readline()))
        writer.close()
        server.close()
        return answers

    answers = asyncio.run(talk())
    assert answers[0] == {"ok": True, "asked": 7} and answers[-1]["ok"]
    assert all(not answer["ok"] and answer["error"] for answer in answers[1:-1])


def test_slots_are_read_again_only_when_another_process_changed_something() -> None:
    now, reads = [5], []

    def read(service: str) -> Table:
        reads.append(service)
        return ("a", "b")

    cache = SlotCache(lambda: now[0])
    assert cache.read("echo", read) == cache.read("echo", read) == ("a", "b") and reads == ["echo"]
    with cache.changing(lambda: now[0]) as follow:  # every transaction is ours
        now[0] += 2
        follow({"echo": ("b", "b")})
    assert cache.is_own(6) and cache.is_own(7) and cache.read("echo", read) == ("b", "b") and reads == ["echo"]
    now[0] += 1  # another process
    assert not cache.is_own(8) and cache.read("echo", read) == ("a", "b") and reads == ["echo"] * 2
    for done in (lambda: 0, lambda: now[0] // 2):  # nothing was done by us, or another process was quicker
        with cache.changing(done) as follow:
            now[0] += 2
            follow({"echo": ("b", "b")})
        assert not cache.is_own(now[0]) and cache.read("echo", read) == ("a", "b")
    with cache.reading() as note:
        now[0] += 1
        note({"echo": ("c",)})
    assert cache.read("echo", read) == ("a", "b")


def ends(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_death_is_told_at_once_and_a_kill_hits_only_what_is_watched() -> None:
    async def run() -> list[tuple[str, int]]:
        told: list[tuple[str, int]] = []
        came = asyncio.Event()

        def died(name: str, pid: int) -> None:
            told.append((name, pid))
            came.set()

        deaths = Deaths(asyncio.get_running_loop(), died)
        child = subprocess.Popen(["sleep", "60"])
        assert deaths.watch("a", child.pid) and deaths.pids["a"] == child.pid and not deaths.kill("b")
        assert deaths.kill("a")
        await asyncio.wait_for(came.wait(), 10)
        child.wait()
        assert not deaths.kill("a") and not deaths.watch("a", child.pid)
        return [(name, pid - child.pid) for name, pid in told]

    assert asyncio.run(run()) == [("a", 0)]


def test_an_end_that_was_not_told_yet_is_told_before_another_process_is_watched() -> None:
    async def run() -> None:
        told: list[tuple[str, int]] = []
        deaths = Deaths(asyncio.get_running_loop(), lambda name, pid: told.append((name, pid)))
        first, second = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
        try:
            assert deaths.watch("a", first.pid) and deaths.alive() == {"a": first.pid}
            first.kill()
            first.wait()  # the loop has not turned meanwhile
            assert deaths.pids["a"] == first.pid and deaths.alive() == {} and told == []
            assert deaths.watch("a", second.pid) and told == [("a", first.pid)]
            assert deaths.alive() == {"a": second.pid}
        finally:
            second.kill()
            second.wait()

    asyncio.run(run())


def test_a_noted_process_is_found_again_and_a_pid_given_to_another_is_not(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        started = start_time(child.pid)
        assert started is not None
        paths = resolve(home=str(tmp_path), config=None)
        make_directories(paths)
        note(paths.processes, {"a-blue-1": (child.pid, started), "b-blue-1": (child.pid, started - 1)})
        assert alive(paths) == {"a-blue-1": child.pid}
    finally:
        child.kill()
    ends(lambda: start_time(child.pid) is None)
    assert alive(paths) == {}
    child.wait()


def test_setting_aside_moves_only_what_is_there(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "c", tmp_path, tmp_path, tmp_path)
    paths.programs.mkdir()
    (paths.programs / "a.conf").write_text("x")
    assert set_aside(paths, ["a", "b"]) == ["a"]
    assert [file.name for file in paths.programs.iterdir()] == ["a.adopted"]


def test_last_words(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "c", tmp_path, tmp_path, tmp_path)
    assert last_exit(paths, "echo-blue-1") is None and last_lines(tmp_path / "none") == []
    (tmp_path / "supervisord.log").write_text(
        "2026 WARN exited: echo-blue-1 (exit status 3; not expected)\n"
        "2026 WARN exited: echo-blue-11 (exit status 4; not expected)\n"
        "2026 WARN exited: echo-blue-1 (terminated by SIGSEGV (core dumped); not expected)\n"
        "2026 WARN exited: echo-blue-11 (exit status 5; not expected)\n"
    )
    assert last_exit(paths, "echo-blue-1") == Ended(None, "SIGSEGV (core dumped)")
    assert str(last_exit(paths, "echo-blue-1")) == "terminated by SIGSEGV (core dumped)"
    assert last_exit(paths, "echo-blue-11") == Ended(5) and str(Ended(5)) == "exit status 5"
    (tmp_path / "log").write_bytes(b"one\ntwo\n\nthree\x1b[31m\n" + "vier ä\n".encode())
    assert last_lines(tmp_path / "log") == ["two", "three?[31m", "vier ä"]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def probe_once(target: Target, *, seconds: float = 5) -> str:
    """Return the first result of probing ``target``."""
    results: list[str] = []
    prober = Prober(lambda _, trouble, __: results.append(trouble), time.monotonic, lambda _: os.getpid())
    prober.aim([target])
    deadline = time.monotonic() + seconds
    while not results:
        assert time.monotonic() < deadline
        time.sleep(prober.tick())
    prober.aim([])
    return results[0]


def test_probes_by_connect(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert probe_once(Target("a", Port("127.0.0.1", port), None, Probe())) == ""
    listener.close()
    assert "ECONNREFUSED" in probe_once(Target("a", Port("127.0.0.1", port), None, Probe()))


def test_a_probe_of_a_port_ends_with_a_reset(listener: socket.socket) -> None:
    assert probe_once(Target("a", Port("127.0.0.1", listener.getsockname()[1]), None, Probe())) == ""
    with listener.accept()[0] as asked, pytest.raises(ConnectionResetError):
        asked.recv(1)


def test_one_in_ten_probes_of_a_daemon_with_a_control_socket_goes_through_its_port(
    listener: socket.socket, tmp_path: Path
) -> None:
    def answer() -> None:
        with control.accept()[0] as asked:
            while asked.recv(100):
                asked.sendall(b'{"state": "ready", "ok": true, "connections": 5, "max_connections": 7}\n')

    def serve() -> None:
        for _ in range(3):
            select.select([listener], [], [])
            with noting:  # until it is accepted the probe has no result
                accepted = listener.accept()[0]
                served.append(turn)
            with accepted:
                accepted.recv(1)

    def answered(turn: int) -> bool:
        return prober.tick() >= 0 and len(results) > turn

    results, served, turn, noting = list[str](), list[int](), 0, threading.Lock()
    port, path = listener.getsockname()[1], tmp_path / "c"
    # Time stands still: no turn comes but those that are asked for.
    prober = Prober(lambda _, trouble, __: results.append(trouble), lambda: 1000.01, lambda _: os.getpid())
    prober.aim([Target("a", Port("127.0.0.1", port), str(path), Probe(interval=3600, timeout=5))])
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(path))
        control.listen()
        for work in (answer, serve):
            threading.Thread(target=work, daemon=True).start()
        for turn in range(21):
            prober.ask("a")
            ends(partial(answered, turn))
            with noting:
                pass
    assert results == [""] * 21
    assert served == [0, 8, 18], "the first time its name says after how many: all do not go through the port at once"
    prober.aim([])


def test_a_control_socket_that_spoke_and_is_gone_is_a_failed_probe(listener: socket.socket, tmp_path: Path) -> None:
    port, path, results = listener.getsockname()[1], tmp_path / "c", list[str]()
    prober = Prober(lambda _, trouble, __: results.append(trouble), time.monotonic, lambda _: os.getpid())

    def result() -> str:
        ends(lambda: prober.tick() >= 0 and bool(results))
        return results.pop()

    def next_result() -> str:
        prober.ask("a")
        return result()

    prober.aim([Target("a", Port("127.0.0.1", port), str(path), Probe(interval=3600, timeout=1))])
    assert result() == "", "a daemon without a control socket is asked by its port alone"
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(path))
        control.listen()

        def answer() -> None:
            with control.accept()[0] as asked:
                asked.recv(100)
                asked.sendall(b'{"state" : "ready", "ok": true, "connections": 5, "max_connections": 7}\n')
                for _ in range(2):  # the probe before was one too
                    listener.accept()[0].close()

        answering = threading.Thread(target=answer)
        answering.start()
        assert next_result() == "" and prober.said["a"].connections == 5
        answering.join(10)
    assert next_result(), "the connection that was kept has ended"
    assert "ECONNREFUSED" in next_result()
    path.unlink()
    assert "no answer" in next_result(), "its file was removed: whether its loop turns is asked by the port"
    prober.aim([])
    assert prober.said == {}


def test_a_loop_that_hangs_fails_although_the_kernel_accepts_for_it(listener: socket.socket, tmp_path: Path) -> None:
    port = listener.getsockname()[1]
    expecting = Probe(send="PING\n", expect="PONG", timeout=0.05)
    assert "no answer within 50 ms" in probe_once(Target("a", Port("127.0.0.1", port), None, expecting))
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(tmp_path / "c"))
        control.listen()
        trouble = probe_once(Target("a", Port("127.0.0.1", port), str(tmp_path / "c"), Probe(timeout=0.05)))
    assert "no answer within 50 ms" in trouble
