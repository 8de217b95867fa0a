"""Framings without I/O, and any split of any request sequence through the real thing."""

from __future__ import annotations

import asyncio
import os
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portfleet_daemon.framing import FRAMINGS, Framing, FramingError, Resp, RespError
from portfleet_daemon.framing.base import FLUSH_AT, Answered
from support.daemons import Client, Daemon, Daemons, daemons_in

from .conftest import HANDLERS

WORDS = st.binary(max_size=40)
LINES = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"").rstrip(b"\r"))


def encode(name: str, request: Any) -> bytes:
    if name == "line":
        return bytes(request) + b"\n"
    if name == "length":
        return len(request).to_bytes(4, "big") + bytes(request)
    return b"*%d\r\n" % len(request) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in request)


REQUESTS: dict[str, st.SearchStrategy[list[Any]]] = {
    "line": st.lists(LINES, max_size=12),
    "length": st.lists(WORDS, max_size=12),
    "resp": st.lists(st.lists(WORDS, min_size=1, max_size=5), max_size=8),
}


def always(answer: bytes) -> Callable[[Any], bytes]:
    """Return a handler that gives the same answer to all."""
    return lambda _: answer


def parse_all(framing: Framing, chunks: list[bytes]) -> tuple[list[Any], bytes]:
    """The requests of a stream that arrives in chunks, as a connection parses it, and what is left."""
    buffer, memo, requests = bytearray(), None, []
    for chunk in chunks:
        buffer += chunk
        while buffer:
            request, end, memo = framing.split(buffer, memo)
            if not end:
                break
            del buffer[:end]
            if request is not None:
                requests.append(request)
    return requests, bytes(buffer)


def chop(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if end > start]


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data(), cuts=st.lists(st.integers(0, 2000), max_size=30))
def test_any_split_gives_the_same_requests(name: str, data: st.DataObject, cuts: list[int]) -> None:
    framing = FRAMINGS[name](max_request=65536)
    requests = data.draw(REQUESTS[name])
    stream = b"".join(encode(name, request) for request in requests)
    assert parse_all(framing, chop(stream, cuts)) == (requests, b"")
    assert parse_all(framing, [bytes([byte]) for byte in stream]) == (requests, b"")


@pytest.mark.parametrize("name", FRAMINGS)
@given(stream=st.binary(max_size=300) | st.text("*$0123-\r\nab ", max_size=80).map(str.encode))
def test_random_bytes_are_requests_partial_or_a_framing_error(name: str, stream: bytes) -> None:
    framing = FRAMINGS[name](max_request=1000)
    try:
        whole = parse_all(framing, [stream])
    except FramingError:
        with pytest.raises(FramingError):
            parse_all(framing, [bytes([byte]) for byte in stream])
    else:
        assert parse_all(framing, [bytes([byte]) for byte in stream]) == whole


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data(), junk=st.binary(max_size=30))
def test_the_fast_path_agrees_with_the_slow_one(name: str, data: st.DataObject, junk: bytes) -> None:
    framing = FRAMINGS[name](max_request=65536)
    exchange = framing.exchange(lambda request: request)
    requests = data.draw(REQUESTS[name])
    for request in requests:
        assert exchange(encode(name, request)) == framing.reply(request)
        assert exchange(encode(name, request)[:-1]) is None
    assert exchange(b"") is None
    stream = b"".join(encode(name, request) for request in requests)
    replies = b"".join(framing.reply(request) for request in requests)
    whole = exchange(stream + junk)
    if isinstance(whole, Answered):
        assert not whole.waiting and not whole.failure
        taken, end = whole.replies, whole.end
    else:
        assert isinstance(whole, bytes | None)
        taken, end = whole or b"", len(stream + junk) if whole else 0
    got, rest = parse_all(framing, [(stream + junk)[:end]])
    assert (rest, taken) == (b"", b"".join(framing.reply(request) for request in got))
    if name != "resp" or all(len(word) < 1000 and b"\r\n" not in word for request in requests for word in request):
        assert taken.startswith(replies)  # all of them in one pass


@pytest.mark.parametrize("name", FRAMINGS)
@given(stream=st.binary(max_size=300) | st.text("*$0123-\r\nab ", max_size=80).map(str.encode))
def test_one_pass_takes_nothing_that_split_would_not(name: str, stream: bytes) -> None:
    framing = FRAMINGS[name](max_request=1000)
    requests, end = framing.split_all(stream)
    assert parse_all(framing, [stream[:end]]) == (requests, b"")


#: RESP that is whole, cut, or wrong in one place: bulk strings that contain ends of lines or other requests, are longer
#: than the tables, have another length than they say, or no end; numbers with zeros; other types; words on a line.
BULK = st.binary(max_size=8) | st.sampled_from(
    [b"\r\n", b"a\r", b"\nb", b"*2\r\n$1", b"x" * 1023, b"y" * 1024, b"$1\r\n"]
)
PARTS = st.lists(
    st.lists(BULK, min_size=1, max_size=4).map(lambda words: encode("resp", words))
    | st.lists(BULK, min_size=2, max_size=2).map(lambda words: encode("resp", words))
    | st.sampled_from(
        [
            *(b"*%d\r\n" % number for number in (0, 1, 2, 3, 4, 64, 65, -1)),
            *(b"$%d\r\n" % size for size in (0, 1, 2, 3, -1)),
            *(
                b"a",
                b"ab",
                b"\r\n",
                b"\r",
                b"\n",
                b"*02\r\n",
                b"$01\r\n",
                b"+OK\r\n",
                b":1\r\n",
                b"words on a line\r\n",
                b"*2\n",
            ),
        ]
    ),
    max_size=14,
).map(b"".join)


def answer_all(framing: Framing, chunks: list[bytes]) -> tuple[list[Any], bytes, str]:
    """As `parse_all`, but as a connection answers: what it can in one pass, the rest one by one; with the error."""
    buffer, memo, requests = bytearray(), None, list[Any]()

    def note(request: Any) -> bytes:
        requests.append(request)
        return b""

    one_pass = framing.one_pass(note)
    try:
        for chunk in chunks:
            buffer += chunk
            while buffer:
                if memo is None and (done := one_pass(bytes(buffer))):
                    del buffer[: done[2]]
                    continue
                request, end, memo = framing.split(buffer, memo)
                if not end:
                    break
                del buffer[:end]
                if request is not None:
                    requests.append(request)
    except FramingError as error:
        return requests, bytes(buffer), str(error)
    return requests, bytes(buffer), ""


class Exact(Resp):
    """RESP that finds one request at a time."""

    split_all = Framing.split_all


@given(stream=PARTS, cuts=st.lists(st.integers(0, 2000), max_size=8))
@settings(max_examples=700)
def test_any_resp_in_one_pass_is_as_one_by_one(stream: bytes, cuts: list[int]) -> None:
    found = answer_all(Resp(max_request=2000), chop(stream, cuts))
    assert found == answer_all(Exact(max_request=2000), chop(stream, cuts))
    assert all(type(request) is list and type(word) is bytes for request in found[0] for word in request)


@pytest.mark.parametrize("name", FRAMINGS)
@given(size=st.integers(0, 1500) | st.integers(1020, 1028))
def test_the_table_of_replies_agrees_with_reply(name: str, size: int) -> None:
    framing = FRAMINGS[name](max_request=65536)
    one = b"a" if name != "resp" else [b"a"]
    answer = b"x" * size
    done = framing.one_pass(always(answer))(encode(name, one) * 3)
    assert done is not None
    assert done[:2] == (framing.reply(answer) * 3, 3)


@pytest.mark.parametrize("name", FRAMINGS)
def test_replies_gathered_in_one_pass_are_bounded(name: str) -> None:
    framing = FRAMINGS[name](max_request=65536)
    one = b"a" if name != "resp" else [b"a"]
    for size in (0, 1, 1000, 1023, 1024, 5000):
        answer = b"x" * size
        reply = framing.reply(answer)
        done = framing.one_pass(always(answer))(encode(name, one) * 4000)
        assert done is not None
        assert done[2] == len(encode(name, one)) * done[1]
        assert done[1] == 4000 or FLUSH_AT - 4000 * 16 < len(done[0]) < FLUSH_AT + len(reply)


@pytest.mark.parametrize("name", FRAMINGS)
def test_a_subclass_may_change_either_half(name: str) -> None:
    """What its parent does in one pass is not inherited by one that changes `split` or `reply` alone."""
    parent: Any = FRAMINGS[name]

    class Shouting(parent):  # type: ignore[misc]  # mypy takes no variable for a base
        def reply(self, answer: Any) -> bytes:
            return bytes(super().reply(answer.upper()))

    class Doubling(parent):  # type: ignore[misc]  # mypy takes no variable for a base
        def split(self, buffer: bytes | bytearray, memo: Any) -> tuple[Any, int, Any]:
            request, end, memo = super().split(buffer, memo)
            return request and request * 2, end, memo

    one = b"a" if name != "resp" else [b"a"]
    for number in (1, 3):
        stream = encode(name, one) * number
        loud = Shouting(max_request=100).exchange(lambda _: b"a")(stream)
        assert loud == parent(max_request=100).reply(b"A") * number
        seen: list[Any] = []
        Doubling(max_request=100).exchange(lambda request, seen=seen: seen.append(request) or b"")(stream)
        assert seen[0] == one * 2


@pytest.mark.parametrize("name", FRAMINGS)
def test_one_pass_stops_where_it_has_to(name: str) -> None:
    framing = FRAMINGS[name](max_request=65536)
    one = b"a" if name != "resp" else [b"a"]
    stream = encode(name, one) * 5
    fifth = len(encode(name, one))
    calls = 0

    def respond(request: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3:
            return b"r"
        if answer == "raise":
            raise SystemExit
        return asyncio.Future(loop=loop) if answer == "wait" else b"x" * FLUSH_AT

    loop = asyncio.new_event_loop()
    for answer, replies in ("raise", 2), ("wait", 2), ("flood", 3):
        calls = 0
        done = framing.one_pass(respond)(stream)
        assert done is not None and calls == 3
        _, number, end, waiting, failure = done
        assert (number, end) == (replies, 3 * fifth)
        assert (failure is not None, waiting is not None) == (answer == "raise", answer == "wait")
    loop.close()


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        (b"bulk", b"$4\r\nbulk\r\n"),
        ("OK", b"+OK\r\n"),
        ("two\r\nlines", b"+two  lines\r\n"),
        (7, b":7\r\n"),
        (None, b"$-1\r\n"),
        ([b"a", 1, [None]], b"*3\r\n$1\r\na\r\n:1\r\n*1\r\n$-1\r\n"),
        (RespError("WRONGTYPE no"), b"-WRONGTYPE no\r\n"),
    ],
)
def test_resp_replies(answer: Any, sent: bytes) -> None:
    assert FRAMINGS["resp"](max_request=100).reply(answer) == sent


@pytest.mark.parametrize(("name", "answer"), [("line", "text"), ("line", None), ("length", 1), ("resp", {1: 2})])
def test_what_cannot_be_sent_is_a_type_error(name: str, answer: Any) -> None:
    with pytest.raises(TypeError, match=f"the {name} framing sends"):
        FRAMINGS[name](max_request=100).reply(answer)


def test_a_part_of_many_arguments_is_kept_once() -> None:
    """The buffer has the bytes; the memo must not have them again as objects."""
    framing = FRAMINGS["resp"](max_request=65536)
    part = b"*60000\r\n" + b"$0\r\n\r\n" * 10_000
    tracemalloc.start()
    try:
        _, end, memo = framing.split(part, None)
        assert memo and not end
        assert tracemalloc.get_traced_memory()[0] < 5_000
    finally:
        tracemalloc.stop()


def test_one_byte_pieces_cost_no_more_than_linear_work() -> None:
    """A request of many arguments in single bytes: what was parsed is not parsed again."""

    class Counting(bytearray):
        finds = 0

        def find(self, *arguments: Any) -> int:
            Counting.finds += 1
            return super().find(*arguments)

    framing = FRAMINGS["resp"](max_request=1 << 20)
    stream = encode("resp", [b"x"] * 2000)
    buffer, memo = Counting(), None
    for byte in stream:
        buffer.append(byte)
        request, _, memo = framing.split(buffer, memo)
    assert request == [b"x"] * 2000
    assert Counting.finds < 2 * len(stream)


@pytest.fixture(scope="module", params=FRAMINGS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Daemon]]:
    daemons = Daemons(tmp_path_factory.mktemp(request.param))
    try:
        yield request.param, daemons.start("--framing", request.param, "--max-request", "3000")
    finally:
        daemons.end()


@given(data=st.data(), cuts=st.lists(st.integers(0, 2000), max_size=12), awaited=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_any_split_through_the_daemon_gives_the_same_replies(
    served: tuple[str, Daemon], data: st.DataObject, cuts: list[int], awaited: bool
) -> None:
    name, daemon = served
    framing = FRAMINGS[name](max_request=65536)
    requests = data.draw(REQUESTS[name])
    expected = b"".join(framing.reply(request) for request in requests)
    with daemon.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for chunk in chop(b"".join(encode(name, request) for request in requests), cuts):
            client.send(chunk)
        if awaited:
            assert client.receive(len(expected)) == expected
        client.sock.shutdown(socket.SHUT_WR)
        assert client.receive(1 << 20) == (b"" if awaited else expected)


@pytest.mark.parametrize("name", FRAMINGS)
def test_pipelined_requests_have_one_write_and_are_counted(daemons: Daemons, name: str) -> None:
    daemon = daemons.start("--framing", name)
    request = [b"GET", b"key"] if name == "resp" else b"request"
    reply = FRAMINGS[name](max_request=100).reply(request)
    with daemon.connect() as client:
        for number in range(1, 20):
            client.send(encode(name, request) * 16)
            assert client.receive(16 * len(reply)) == reply * 16
            assert daemon.status()["requests"] == 16 * number
        client.send(encode(name, request) * 16 + encode(name, request)[:3])
        assert client.receive(16 * len(reply)) == reply * 16
        client.send(encode(name, request)[3:] + encode(name, request))
        assert client.receive(2 * len(reply)) == reply * 2
    assert daemon.until(connections=0)["requests"] == 16 * 20 + 2


@pytest.fixture(scope="module", params=["waiting_echo", "EchoObject"])
def other_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "sample.py").write_text(HANDLERS)
    with daemons_in(directory) as daemons:
        yield daemons.start(handler=f"sample:{request.param}")


@given(requests=REQUESTS["line"], cuts=st.lists(st.integers(0, 2000), max_size=12))
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_any_split_through_an_async_or_stateful_handler_too(
    other_kind: Daemon, requests: list[Any], cuts: list[int]
) -> None:
    stream = b"".join(encode("line", request) for request in requests)
    with other_kind.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for chunk in chop(stream, cuts):
            client.send(chunk)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.receive(1 << 20) == stream


def test_random_bytes_through_the_daemon_do_no_harm(served: tuple[str, Daemon]) -> None:
    _, daemon = served
    daemon.until(connections=0)
    before = daemon.rss()

    @given(st.lists(st.binary(max_size=200) | st.sampled_from([b"x" * 5000, b"*3\r\n$5\r\n", b"\xff" * 4]), max_size=6))
    @settings(max_examples=100)
    def fuzz(chunks: list[bytes]) -> None:
        with daemon.connect() as client:
            try:
                for chunk in chunks:
                    client.send(chunk)
                client.sock.shutdown(socket.SHUT_WR)
                client.receive(1 << 20)
            except (ConnectionError, OSError):
                assert daemon.process.poll() is None

    fuzz()
    daemon.until(connections=0)
    assert daemon.rss() - before < 2_000_000
    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 30
    assert "Traceback" not in daemon.log


def test_clients_share_nothing(daemons: Daemons) -> None:
    """Interleaved parts of many clients."""
    daemon = daemons.start()
    clients: list[Client] = [daemon.connect() for _ in range(20)]
    for part in (b"a", b"b", b"c"):
        for number, client in enumerate(clients):
            client.send(part + b"%d" % number)
    for number, client in enumerate(clients):
        assert client.ask(b"\n") == b"a%db%dc%d\n" % (number, number, number)
