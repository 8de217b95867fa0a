"""What an instance says: a proper answer becomes a checked value, anything else one kind of error with short words."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from portfleet.core.counters import Counters
from portfleet.core.status import DaemonState, Status
from portfleet.daemons.answers import (
    LONGEST,
    MOST,
    ControlError,
    HandoffRefused,
    ImproperAnswer,
    Refused,
    read_done,
    read_progress,
    read_status,
)
from portfleet.daemons.control import Ask
from portfleet.daemons.exchange import Control

#: What docs/control.md shows, from the Python daemon.
FULL: dict[str, Any] = {
    "ok": True, "state": "ready", "connections": 17310, "pid": 4711, "instance": "echo-blue-1", "port": 7101,
    "version": "0.1.0", "accepted": 10**7, "requests": 10**9, "bytes_in": 10**11, "bytes_out": 10**11, "errors": 3,
    "latency": {"bounds_us": [8, 11.3, 16], "counts": [1, 2, 3, 4]}, "max_loop_lag_us": 12, "max_connections": 19936,
    "keepalive_s": 420,
    "handoff": [1],
}  # fmt: skip


def line(answer: object) -> bytes:
    return json.dumps(answer).encode()


def test_a_proper_status_becomes_a_value() -> None:
    found = read_status(line(FULL))
    assert found == Status(
        DaemonState.READY,
        17310,
        19936,
        frozenset({1}),
        10**7,
        10**9,
        3,
        420,
        (8, 11.3, 16),
        (1, 2, 3, 4),
        10**11,
        10**11,
    )
    assert found.counters == Counters(10**9, 3, ((8.0, 1), (11.3, 2), (16.0, 3), (math.inf, 4)))
    assert read_status(line({"ok": True, "state": "draining", "connections": MOST})) == Status(
        DaemonState.DRAINING, MOST
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"ok":true,"state":"ready","connections":0}',
        ' { "connections" : 0 ,\t"ok" : true, "state" : "ready" } \r',
        '{"state" : "ready", "ok" :true, "connections":0}',
    ],
)
def test_spaces_and_order_do_not_count(text: str) -> None:
    assert read_status(text.encode()) == Status(DaemonState.READY, 0)


def test_one_bucket_is_a_histogram_too() -> None:
    c_daemon = FULL | {"latency": {"bounds_us": [], "counts": [7]}}
    found = read_status(line(c_daemon)).counters
    assert found is not None and found.latency == ((math.inf, 7),)


BAD: list[tuple[bytes, str]] = [
    (b"", "no JSON object"),
    (b"\xff\xfe", "no JSON object"),
    (b"[" * LONGEST, "no JSON object"),
    (b'{"a":' * 10_000, "no JSON object"),
    (b"[]", "no JSON object"),
    (b'"ready"', "no JSON object"),
    (b"NaN", "no JSON object"),
    (line(FULL) + line(FULL), "no JSON object"),
    (line(FULL) + b" " * LONGEST, "more than 65,536 bytes"),
    (b'{"ok":true,"state":"ready","connections":' + b"9" * 5000 + b"}", "no JSON object"),
    (b'{"ok":true,"state":"ready","connections":' + b"9" * 400 + b"}", "connections is 9999"),
    (b'{"ok":true,"state":"ready","connections":1e400}', "connections is inf"),
    (line({**FULL, "ok": 1}), "ok is 1"),
    (line({**FULL, "ok": None}), "ok is missing"),
    (line({"ok": False}), "error is missing"),
    (line({**FULL, "state": "\x1b[31mred"}), r"state is '\x1b[31mred'"),
    (line({**FULL, "state": ["ready"]}), "state is not such a list"),
    (line({**FULL, "state": "x" * 60_000}), "…"),
    (line({**FULL, "connections": True}), "connections is True"),
    (line({**FULL, "connections": -1}), "connections is -1"),
    (line({**FULL, "connections": 1.0}), "connections is 1.0"),
    (line({**FULL, "connections": MOST + 1}), "connections is 9007199254740993"),
    (line({key: value for key, value in FULL.items() if key != "connections"}), "connections is missing"),
    (line({**FULL, "max_connections": None}), "max_connections is missing"),
    (line({**FULL, "accepted": "7"}), "accepted is '7'"),
    (line({**FULL, "handoff": 1}), "handoff is 1"),
    (line({**FULL, "handoff": [True]}), "handoff is not such a list"),
    (line({**FULL, "handoff": [1] * 65}), "handoff is not such a list"),
    (line({**FULL, "latency": [1]}), "latency is not such a list"),
    (line({**FULL, "latency": {"bounds_us": [1], "counts": [1]}}), "latency is not such an object"),
    (line({**FULL, "latency": {"bounds_us": [2, 1], "counts": [1, 1, 1]}}), "latency is not such an object"),
    (line({**FULL, "latency": {"bounds_us": [True], "counts": [1, 1]}}), "latency is not such an object"),
    (line({**FULL, "latency": {"bounds_us": [1], "counts": [1, -1]}}), "latency is not such an object"),
    (b'{"ok":true,"state":"ready","connections":0,"requests":0,"errors":0,"latency":{"bounds_us":[1e999],'
     b'"counts":[0,0]}}', "latency is not such an object"),
    (line({**FULL, "latency": {"bounds_us": [*range(2000)], "counts": [0] * 2001}}), "latency is not such an object"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "words"), BAD)
def test_all_else_is_improper_and_says_why_in_short_words_that_print(data: bytes, words: str) -> None:
    with pytest.raises(ImproperAnswer) as caught:
        read_status(data)
    assert words in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize("read", [read_status, read_done, read_progress])
def test_a_refusal_is_in_the_daemons_words_cut_short_and_fit_to_print(read: Callable[[bytes], object]) -> None:
    with pytest.raises(Refused) as caught:
        read(line({"ok": False, "error": "no\x1b[2J\ud800 room\n" + "x" * 1000, "hint": 7}))
    assert str(caught.value).startswith("no?[2J? room?xxx") and len(str(caught.value)) == 201


@pytest.mark.parametrize("error", ["", "  ", "\n"])
def test_a_refusal_without_a_word_is_a_refusal(error: str) -> None:
    asked = Ask(Control("/nowhere", None), b"", read_status)
    assert asked.received(line({"ok": False, "error": error}) + b"\n") and asked.answer is None


def test_lines_of_a_hand_off() -> None:
    progress = {"ok": True, "event": "progress", "moved": 384, "remaining": 616, "connections": [["192.0.2.1", 1]]}
    assert read_progress(line(progress)) == (384, False)
    assert read_progress(line({"ok": True, "event": "done", "moved": 1000})) == (1000, True)
    with pytest.raises(HandoffRefused) as caught:
        read_progress(line({"ok": False, "error": "it ended", "moved": 12, "remaining": 3}))
    assert (str(caught.value), caught.value.moved) == ("it ended", 12)
    for bad in ({"event": "over"}, {"event": ["done"]}, {"moved": -1}, {"moved": "7"}, {"moved": None}):
        with pytest.raises(ImproperAnswer):
            read_progress(line(progress | bad))


#: Values that a key may be given: of the right kind and not, within and out of all bounds.
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(MOST - 1, 10**30) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*FULL, "a"]), inner, max_size=4),
    max_leaves=8,
)


@seed(1)
@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from([*FULL, "event", "moved", "error", "hint"]), JUNK), st.booleans())
def test_no_object_does_more_than_that(changed: dict[str, Any], whole: bool) -> None:
    check(line((FULL if whole else {}) | changed))


@seed(1)
@settings(max_examples=80)
@given(st.integers(0, 1 << 60), st.integers(1, 6))
def test_nor_does_a_proper_answer_with_bytes_changed(number: int, times: int) -> None:
    source, data = random.Random(number), bytearray(line(FULL))
    for _ in range(times):
        at, piece = (
            source.randrange(len(data)),
            source.choice([b"", b"[" * 900, b"9" * 5000, b"\xc3", b'"', b"}", b"-"]),
        )
        data[at : at + source.randrange(4)] = piece
    check(bytes(data))


def check(data: bytes) -> None:
    """Read ``data`` as each kind of answer: a checked value comes of it, or an error with words that can be shown."""
    for read in (read_status, read_done, read_progress):
        try:
            found = read(data)
        except ControlError as error:
            assert str(error).isprintable() and len(str(error)) < 400
            continue
        if isinstance(found, Status):
            numbers = [found.connections, found.max_connections, *found.handoff]
            numbers += [] if found.accepted is None else [found.accepted]
            if found.counters:
                numbers += [found.counters.requests, found.counters.errors, *(n for _, n in found.counters.latency)]
                bounds = [bound for bound, _ in found.counters.latency]
                assert bounds == sorted(bounds) and not any(map(math.isnan, bounds))
            assert all(type(number) is int and 0 <= number <= MOST for number in numbers)
