"""Events: one table of kinds, a file that two processes write to, and the watcher's memory of it."""

from __future__ import annotations

import ast
import io
import json
import resource
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import portfleet
from portfleet.__main__ import main
from portfleet.core.events import Event, from_json, make
from portfleet.core.history import fields_of, whole
from portfleet.core.journal import HistoryEntry
from portfleet.core.kinds import KINDS
from portfleet.store import locks
from portfleet.store.clock import stamp_exactly
from portfleet.store.events import EventFile
from portfleet.store.journald import sender
from portfleet.store.log import Log
from portfleet.watch.event_command import EventCommand
from portfleet.watch.recorder import Recorder
from support.fleets import ECHO
from support.sandbox import wait_for

PACKAGE = Path(str(portfleet.__file__)).parent


def named(kind: str = "ejected", **fields: object) -> Event:
    return make(kind, "2026-01-31T12:03:10.519Z", {"instance": "echo-blue-1", "reason": "it died"} | fields)


def kinds_in(source: str) -> Iterator[tuple[str, set[str] | None]]:
    """Return the kind of each event that ``source`` makes, and its fields (None: not told by the source alone)."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        function = ast.unparse(node.func)
        name = function.rpartition(".")[2]
        given = node.args
        if name == "partial" and ast.unparse(given[0]).endswith("log"):
            name, given = "log", given[1:]
        if name == "record":
            given = given[1:]
        if name in ("log", "_log", "once", "Done", "make", "record"):
            names = {word.arg for word in node.keywords} | ({"operator"} if name == "record" else set())
            told = None not in names and name not in ("Done", "make") and function != "partial"
            for one in _choices(given[0]) if given else ():
                yield one, {str(word) for word in names} if told else None


def _choices(kind: ast.expr) -> Iterator[str]:
    """Return the texts that an argument may be."""
    if isinstance(kind, ast.IfExp):
        yield from _choices(kind.body)
        yield from _choices(kind.orelse)
    elif isinstance(kind, ast.Constant) and isinstance(kind.value, str):
        yield kind.value


def test_the_table_has_the_kinds_that_the_code_makes_and_no_others() -> None:
    made = {kind for path in PACKAGE.rglob("*.py") for kind, _ in kinds_in(path.read_text())}
    assert made - KINDS.keys() == set()
    assert KINDS.keys() - made == set(), "nothing makes these any more"


def test_each_sentence_names_only_what_its_events_have() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for kind, fields in kinds_in(path.read_text()):
            named = {name for _, name, _, _ in string.Formatter().parse(KINDS[kind].words) if name}
            if fields is not None and (missing := named - fields):
                wrong.append((path.name, kind, missing))
            if fields is not None and fields & {"number", "time", "kind", "words", "level"}:
                wrong.append((path.name, kind, fields))
    assert wrong == []


def test_an_event_says_what_it_is_about_and_is_the_same_after_the_file() -> None:
    event = named(took_ms="1.51")
    assert (event.service, event.instance, event.words) == (
        "echo", "echo-blue-1", "echo-blue-1 gets no new connections: it died",
    )  # fmt: skip
    assert from_json(json.loads(json.dumps(event.to_json()))) == event
    with pytest.raises(KeyError):
        named("no-such-kind")


def test_a_sentence_is_printable_and_no_field_is_endless() -> None:
    event = named(reason="\x1b[2J\n" + "x" * 100_000, file=Path("/a"))
    assert event.words.isprintable() and len(json.dumps(event.to_json())) < 30_000
    assert event.more["file"] == "/a"


def test_two_processes_write_each_event_once_and_numbers_grow(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    script = (
        "import sys; from pathlib import Path\n"
        "from portfleet.store.events import EventFile; from portfleet.core.events import make\n"
        "file = EventFile(Path(sys.argv[1]), most=40_000, patience=20)\n"
        "for n in range(200): file.exchange([make('blind', 'now', {'reason': sys.argv[2], 'n': n})])\n"
    )
    reader = EventFile(path, most=40_000, patience=20)
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in ("a", "b")]
    seen, own = list[Event](), 0
    while any(writer.poll() is None for writer in writers):
        seen += reader.exchange([named()])[0]
        own += 1
    seen += reader.news()
    assert [writer.returncode for writer in writers] == [0, 0]
    numbers = [event.number for event in seen]  # without those that a slow reader finds dropped, as the file was full
    assert numbers == sorted({*numbers}) and numbers[-1] == 2 * 200 + own
    for name in ("a", "b"):
        told = [int(str(event.more["n"])) for event in seen if event.reason == name]
        assert told == sorted({*told}) and told[-1] == 199
    assert path.stat().st_size <= 42_000 and path.stat().st_mode & 0o777 == 0o600
    kept = EventFile(path).read()
    assert [event.number for event in kept] == numbers[-len(kept) :]


@pytest.mark.parametrize("lost", ["events.lock", "events.jsonl"])
def test_a_file_that_was_lost_costs_what_was_in_it_and_numbers_go_on(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "events.jsonl"
    EventFile(path).exchange([named(), named()])
    (tmp_path / lost).unlink()
    kept, trouble = EventFile(path).exchange([named()])
    assert kept[-1].number == 3 and trouble is None


def test_a_damaged_line_costs_that_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventFile(path).exchange([named()])
    with path.open("ab") as file:
        file.write(b'\xff\n[]\n{"number": true}\n' + b"[" * 100_000 + b'\n{"number": 7, "cut sho')
    (tmp_path / "events.lock").write_bytes(b"junk")
    kept, trouble = EventFile(path).exchange([named()])
    assert trouble is None and kept[-1].number == 2
    assert [event.number for event in EventFile(path).read()] == [1, 2]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow over ``size`` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def test_what_finds_no_room_is_written_as_soon_as_there_is_some(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    file = EventFile(path)
    file.exchange([named()])
    before = path.read_bytes()
    with full_disk(len(before) + 10):
        kept, trouble = file.exchange([named()])
    assert trouble is not None and [event.number for event in kept] == [2]
    assert path.read_bytes() == before
    assert EventFile(path).exchange([named()])[0][-1].number == 3
    assert file.waits and [event.number for event in file.exchange([])[0]] == [3]  # with what had found no room
    assert not file.waits and [event.number for event in EventFile(path).read()] == [1, 2, 3]
    assert file.news() == []


def test_the_recorder_gives_events_since_a_number_also_those_of_others(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventFile(path).exchange([named() for _ in range(300)])
    recorder = Recorder(path)
    log = Log(as_json=False, file=io.StringIO(), note=recorder.note)
    recorder.start(log, EventCommand(lambda: (), log))
    log("serving", instance="echo-blue-1", slots=7, reason="ready")
    wait_for("its own is kept", lambda: recorder.since({})["last"] == 301)
    EventFile(path).exchange([named("blind")])
    wait_for("another's is taken in", lambda: recorder.since({})["last"] == 302)
    first = recorder.since({"since": 0})
    assert [event["number"] for event in first["events"]] == list(range(1, 201)) and first["last"] == 302
    rest = recorder.since({"since": 200})["events"]
    assert [event["number"] for event in rest] == list(range(201, 303))
    assert [event["kind"] for event in rest[-2:]] == ["serving", "blind"]
    assert recorder.since({"since": 302}) == {"events": [], "last": 302}
    assert len(recorder.since({"since": "x"})["events"]) == 200
    log("stopped", reason="asked to")
    recorder.close()
    assert EventFile(path).read()[-1].kind == "stopped"


def test_a_lock_that_another_process_holds_delays_events_and_nothing_else(tmp_path: Path) -> None:
    recorder, file = Recorder(tmp_path / "events.jsonl"), io.StringIO()
    log = Log(as_json=False, file=file, note=recorder.note)
    with locks.events(tmp_path / "events.lock", seconds=1):
        recorder.start(log, EventCommand(lambda: (), log))
        began = time.monotonic()
        for _ in range(1000):
            log("blind", reason="full")
        assert time.monotonic() - began < 1
        assert recorder.since({}) == {"events": [], "last": 0}
        wait_for("it is told", lambda: "events lock" in file.getvalue())
    wait_for("all are kept, with what kept them", lambda: recorder.since({})["last"] == 1001)
    recorder.close()


def test_the_verb_shows_the_last_or_those_since_of_one_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "fleet.toml").write_text(ECHO)
    now = stamp_exactly(time.time())
    events = [named(), make("blind", now, {"reason": "full"}), make("ejected", now, {"instance": "echo-blue-2"})]
    EventFile(tmp_path / "lib/events.jsonl").exchange(events)

    def shown(*words: str) -> list[str]:
        assert main(["--home", str(tmp_path), "events", *words]) == 0
        return capsys.readouterr().out.splitlines()

    assert [line.split()[0] for line in shown()] == ["1", "2", "3"]
    assert "ejected" in shown()[0] and "echo-blue-1 gets no new connections: it died" in shown()[0]
    assert [line.split()[0] for line in shown("echo")] == ["1", "3"]
    assert [line.split()[0] for line in shown("-n", "1")] == ["3"] and shown("-n", "0") == []
    assert [line.split()[0] for line in shown("--since", "1h")] == ["2", "3"]
    assert [json.loads(line)["number"] for line in shown("--json", "echo")] == [1, 3]
    assert main(["--home", str(tmp_path), "events", "no-such"]) == 2


def test_the_history_goes_on_where_the_journal_has_forgotten_it() -> None:
    entries = [
        HistoryEntry(number, f"2026-01-31T12:00:0{number}Z", "ann@box", "echo", "drain", "drain echo-blue-2",
                     "cancelled", ok=number != 2, code=0 if number != 2 else 1, release="v1", stays=number == 2)
        for number in (1, 2, 3)
    ]  # fmt: skip
    kinds = ["operation-ended", "operation-failed", "operation-ended"]
    told = [make(kind, "now", fields_of(entry)) for kind, entry in zip(kinds, entries, strict=True)]
    kept = [from_json(json.loads(json.dumps(event.to_json()))) for event in [named(), *told]]
    assert whole(kept, ()) == entries
    assert whole(kept, entries[2:]) == entries and whole([], entries[2:]) == entries[2:]
    damaged = replace(kept[1], more={**kept[1].more, "outcome": 7})
    assert whole([damaged, kept[2]], ()) == [entries[1]]
    assert told[0].words == "drain of echo: cancelled (operation 1)"


def test_systemd_s_journal_gets_it_with_its_fields_if_systemd_started_us(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        journal.settimeout(5)
        sender(path, {})(named())
        sender(path, {"INVOCATION_ID": "1"})(replace(named(reason="two\nlines"), number=7))
        data, fields = journal.recv(65536), dict[str, str]()
        while data:
            name, _, rest = data.partition(b"\n")
            size = int.from_bytes(rest[:8], "little")
            fields[name.decode()], data = rest[8 : 8 + size].decode(), rest[9 + size :]
        assert fields == {
            "MESSAGE": "echo-blue-1 gets no new connections: two?lines", "PRIORITY": "4", "PORTFLEET_NUMBER": "7",
            "SYSLOG_IDENTIFIER": "portfleet", "PORTFLEET_KIND": "ejected", "PORTFLEET_SERVICE": "echo",
            "PORTFLEET_INSTANCE": "echo-blue-1", "PORTFLEET_REASON": "two\nlines",
        }  # fmt: skip
        for _ in range(10_000):  # nobody reads it, and no call waits
            sender(path, {"INVOCATION_ID": "1"})(named())
    sender(str(tmp_path / "none"), {"INVOCATION_ID": "1"})(named())


def test_a_fleet_without_events_has_none_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(tmp_path), "events"]) == 0
    assert capsys.readouterr().out == ""
