"""Locks that another process holds: a local user cannot, and one that hangs delays no ejection."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box, on_haproxy
from support.reachable import show_checkout
from support.rights import needs_another_user
from support.sandbox import client4, wait_for
from support.watched import NAMED, QUICK, pid_of, signal, wait_event

_DIAL = ("/usr/bin/python3", "-c", "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])")
_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


@contextmanager
def held(box: FleetBox, path: str) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock as a command of root that hangs does."""
    holder = box.boxes.host.popen("flock", "-x", path, "sh", "-c", "echo held; cat")
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.communicate("")


def _open_to_others(box: FleetBox) -> str:
    """Return what other users may do anything with below run/ and lib/, but for what lies in a user's own directory."""
    beside = ("!", "-type", "l", "!", "-path", f"{HOME}/run", "!", "-path", f"{HOME}/run/games/*")
    return box.boxes.host.run("find", f"{HOME}/run", f"{HOME}/lib", *beside, "-perm", "/077", "-ls").stdout


def watched(box: FleetBox) -> dict[str, int]:
    """Return {instance: pid} as soon as the watcher has seen all of them."""
    noted = box.boxes.host.path(f"{HOME}/lib/processes.json")
    wait_for("the watcher knows all", lambda: noted.exists() and len(json.loads(noted.read_text())) == 4)
    return {name: pid for name, (pid, _) in json.loads(noted.read_text()).items()}


@pytest.mark.long
def test_a_local_user_can_open_no_lock_and_read_no_state() -> None:
    with fleet_box(NAMED + QUICK) as box:
        # As an earlier version left them: the next `apply` closes them.
        box.boxes.host.run("sh", "-c", f"chmod 755 {HOME}/lib {HOME}/run && chmod 644 {HOME}/run/*.lock {HOME}/lib/*.*")
        box.portfleet("apply")
        there = box.boxes.host.run("find", f"{HOME}/run", f"{HOME}/lib", "-type", "f").stdout.splitlines()
        assert {f"{HOME}/run/table.lock", f"{HOME}/run/watch.lock", f"{HOME}/run/service-echo.lock",
                f"{HOME}/lib/journal.lock"} <= {*there}  # fmt: skip
        for path in there:
            done = box.boxes.host.run(*_NOBODY, "flock", "-n", "-x", path, "true", check=False)
            assert done.returncode and "Permission denied" in done.stderr, (path, done)
        assert _open_to_others(box) == ""
        for verb in ("status", "lock", "history", "plan"):
            done = box.boxes.host.run(*_NOBODY, *_portfleet(verb), check=False)
            assert done.returncode == 1 and "Traceback" not in done.stderr, done
            assert "hint: run as root" in done.stderr or "only root may look at this fleet" in done.stderr, done


@pytest.mark.long
@needs_another_user
def test_nothing_that_a_fleet_with_all_its_parts_keeps_is_open_to_others() -> None:
    own = f"{HOME}/own"
    parts = f'user = "games"\nenvironment_file = "{own}/env"\nfiles = {{ "{own}/{{instance}}.conf" = "{own}/conf.in" }}'
    fleet = f'[fleet]\non_event = ["/bin/true"]\n[metrics]\nlisten = "127.0.0.1:9797"\n{NAMED}{parts}\n'
    with fleet_box() as box:
        host = box.boxes.host
        show_checkout(host)
        host.run("sh", "-ec", f"mkdir -p {own}; echo TOKEN=abc > {own}/env; chmod 600 {own}/env; echo > {own}/conf.in")
        for config in (fleet + QUICK, on_haproxy(fleet + QUICK)):
            box.write(config)
            box.portfleet("up")
            wait_for("the metrics' process asks", lambda: "seen.sock" in host.run("ls", f"{HOME}/run").stdout)
            box.portfleet("deny", "echo", "198.18.0.9")
            box.portfleet("restart", "echo/4")
            assert _open_to_others(box) == ""
            assert host.run("stat", "-c", "%a %U", f"{own}/echo-blue-1.conf").stdout == "600 games\n"
            for user, name in (("nobody", "watch"), ("nobody", "games/echo-blue-1"), ("games", "seen")):
                as_user = ("setpriv", f"--reuid={user}", "--clear-groups")
                dialled = host.run(*as_user, *_DIAL, f"{HOME}/run/{name}.sock", check=False)
                assert "PermissionError" in dialled.stderr, (user, name, dialled)
            box.portfleet("down", "--yes")


def test_a_process_that_hangs_with_the_table_lock_delays_no_ejection() -> None:
    with fleet_box(NAMED + QUICK) as box:
        box.settled()
        pids = watched(box)
        with held(box, f"{HOME}/run/table.lock"):
            began = time.monotonic()
            signal(box, pids["echo-blue-1"], "KILL")
            ejected = wait_event(box, "ejected", instance="echo-blue-1")
            signal(box, pids["echo-blue-2"], "STOP")  # the loop goes on, and so do its probes
            wait_event(box, "ejected", instance="echo-blue-2")
            asked = box.who([client4(number) for number in range(50)])
            assert {*asked.values()} <= {"echo-blue-3", "echo-blue-4"}
            assert time.monotonic() - began < 8
            assert float(ejected.fields["took_ms"]) < 100
            signal(box, pids["echo-blue-2"], "CONT")
        for number in (1, 2):
            wait_event(box, "serving", instance=f"echo-blue-{number}")
        box.settled()


@pytest.mark.long
def test_a_process_that_hangs_with_the_journals_lock_stops_no_loop_and_is_named() -> None:
    with fleet_box(NAMED + QUICK) as box:
        pid = watched(box)["echo-blue-1"]
        with held(box, f"{HOME}/lib/journal.lock") as holder:
            asking = box.boxes.host.popen(*_portfleet("drain", "echo/4"))
            signal(box, pid, "KILL")
            wait_event(box, "serving", instance="echo-blue-1", after=wait_event(box, "ejected", instance="echo-blue-1"))
            assert holder.poll() is None and asking.poll() is None
            _, said = asking.communicate(timeout=30)
            assert asking.returncode == 5 and "journal.lock is held by pid" in said and "(flock -x" in said, said
        box.portfleet("drain", "echo/4")
        box.wait_state("echo-blue-4", "drained")


@pytest.mark.long
def test_an_operation_waits_for_the_journal_as_long_as_it_takes() -> None:
    with fleet_box(NAMED + QUICK) as box:
        box.portfleet("drain", "echo/4")
        watcher = pid_of(box, "portfleet-watch")
        with held(box, f"{HOME}/lib/journal.lock"):
            # Longer than the tries of what does not answer: the operation's end is not written meanwhile, nor undone.
            undrain = box.boxes.host.popen(*_portfleet("undrain", "echo/4"))
            time.sleep(1)
            assert undrain.poll() is None
        _, said = undrain.communicate(timeout=60)
        assert undrain.returncode == 0, said
        box.wait_state("echo-blue-4", "ready")
        assert pid_of(box, "portfleet-watch") == watcher
        wait_for("nothing runs", lambda: not box.portfleet("lock").stdout.count("echo "))


def _portfleet(*words: str) -> tuple[str, ...]:
    from support.fleet_box import PORTFLEET

    return (PORTFLEET, "--home", HOME, *words)
