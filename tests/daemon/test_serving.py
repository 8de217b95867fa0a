"""Requests and replies, from a client's end of a real connection."""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import time
from functools import partial
from pathlib import Path

import pytest

from support.daemons import Client, Daemon, Daemons, wait_for


def test_a_request_is_answered_over_ipv4_and_ipv6(daemons: Daemons) -> None:
    daemon = daemons.start()
    for address in ("127.0.0.1", "::1"):
        with daemon.connect(address) as client:
            assert client.ask(b"hello\n") == b"hello\n"
            assert client.ask(b"hello\r\n") == b"hello\n"
            assert client.ask(b"\n") == b"\n"
            assert client.ask(b"\r\n") == b"\n"


def test_requests_in_one_byte_pieces_and_pipelined(daemons: Daemons) -> None:
    daemon = daemons.start()
    with daemon.connect() as client:
        for byte in b"one\r\ntwo\n":
            client.send(bytes([byte]))
        assert client.receive(8) == b"one\ntwo\n"
        client.send(b"".join(b"%d\n" % number for number in range(5000)) + b"half")
        expected = b"".join(b"%d\n" % number for number in range(5000))
        assert client.receive(len(expected)) == expected
        assert client.ask(b"way\n") == b"halfway\n"
    assert daemon.until(connections=0)["requests"] == 5003


@pytest.mark.parametrize("size", [477, 478, 479, 480, 958, 4095, 4096, 4097, 60_000])
def test_requests_around_the_sizes_of_a_read(daemons: Daemons, size: int) -> None:
    daemon = daemons.start()
    with daemon.connect() as client:
        request = b"r" * (size - 1) + b"\n"
        for _ in range(3):
            client.send(request)
            assert client.receive(size) == request
        client.send(request * 3)
        assert client.receive(3 * size) == request * 3
        client.send(b"\n" * size)
        assert client.receive(size) == b"\n" * size
    assert daemon.until(connections=0)["requests"] == 6 + size


def test_half_close_gets_all_replies_then_the_end(daemons: Daemons) -> None:
    daemon = daemons.start(handler="sample:slow")
    with daemon.connect() as client:
        client.send(b"wait0.2\nb\nc\nrest")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.receive(100) == b"wait0.2\nb\nc\n"
    daemon.until(connections=0)


def test_a_reset_client_is_gone_and_hurts_nobody(daemons: Daemons) -> None:
    daemon = daemons.start()
    with daemon.connect() as other:
        for data in (b"x\n", b"partial", b""):
            client = daemon.connect()
            client.send(data)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sock.close()
        daemon.until(connections=1)
        assert other.ask(b"still\n") == b"still\n"


def test_a_client_that_does_not_read_is_not_read_and_gets_everything_later(daemons: Daemons) -> None:
    daemon = daemons.start(handler="sample:big")
    before = daemon.rss()
    requests = 400  # 40 MB of replies
    with daemon.connect() as greedy, daemon.connect() as other:
        greedy.sock.setblocking(False)
        sent = greedy.sock.send(b"y\n" * requests)
        assert sent == 2 * requests
        other.send(b"z\n")
        assert other.receive(100_001) == b"z" * 100_000 + b"\n"
        wait_for(lambda: daemon.status()["requests"] >= 2, "the greedy client's first request")
        assert daemon.status()["requests"] < requests / 4, "requests are answered that nobody reads"
        assert daemon.rss() - before < 5_000_000
        greedy.sock.settimeout(15)
        assert greedy.receive(requests * 100_001) == (b"y" * 100_000 + b"\n") * requests


def test_memory_of_requests_over_the_limit_is_bounded(daemons: Daemons) -> None:
    daemon = daemons.start("--max-request", "1000")
    for data in (b"x" * 1000, b"y" * 5000, b"z" * 1000 + b"\n"):
        with daemon.connect() as client:
            client.send(data)
            assert client.closed()
    with daemon.connect() as client:
        assert client.ask(b"w" * 999 + b"\n") == b"w" * 999 + b"\n"
    assert daemon.until(connections=0)["errors"] == 3


@pytest.mark.timed
def test_a_request_that_stays_partial_is_closed_on_time_and_others_are_not(daemons: Daemons) -> None:
    daemon = daemons.start("--request-timeout", "500ms")
    with daemon.connect() as slow, daemon.connect() as idle:
        began = time.monotonic()
        slow.send(b"never ")
        time.sleep(0.2)  # a later byte must not restart the clock
        slow.send(b"ending")
        assert slow.closed()
        assert 0.45 < time.monotonic() - began < 0.75
        assert idle.ask(b"well\n") == b"well\n"


@pytest.mark.timed
def test_idle_connections_are_closed_and_busy_ones_are_not(daemons: Daemons) -> None:
    daemon = daemons.start("--idle-timeout", "800ms", handler="sample:slow")
    with daemon.connect() as idle, daemon.connect() as busy, daemon.connect() as waiting:
        began = time.monotonic()
        waiting.send(b"wait1.5\n")
        while time.monotonic() - began < 1.2:
            assert busy.ask(b"x\n") == b"x\n"
            time.sleep(0.02)
        assert idle.closed()
        assert waiting.line() == b"wait1.5\n"


def test_a_handler_that_raises_ends_one_connection_and_is_logged_once(daemons: Daemons) -> None:
    daemon = daemons.start(handler="sample:boom")
    with daemon.connect() as other:
        for data in (b"boom\n", b"ok\nboom\n", b"boom\nnever\n"):
            with daemon.connect() as client:
                client.send(data)
                assert client.receive(100) == (b"ok\n" if data.startswith(b"ok") else b"")
        assert other.ask(b"fine\n") == b"fine\n"
    assert daemon.status()["errors"] == 3
    assert daemon.log.count("Traceback") == 1


def test_with_an_error_reply_the_connection_lives_on(daemons: Daemons) -> None:
    daemon = daemons.start("--framing", "resp", handler="sample:boom_resp")
    with daemon.connect() as client:
        assert client.ask(b"boom\r\n") == b"-ERR internal error\r\n"  # by the fast path, and by the other:
        client.send(b"a\r\nboom\r\nb\r\n")
        assert client.receive(35) == b"$1\r\na\r\n-ERR internal error\r\n$1\r\nb\r\n"
        assert daemon.status()["errors"] == 2
        assert daemon.log.count("Traceback") == 1
        client.send(b"*1\r\n$-5\r\n")
        assert client.line() == b"-ERR Protocol error: invalid bulk length\r\n"
        assert client.closed()


def test_the_replies_before_an_error_arrive_though_more_was_sent_behind_it(daemons: Daemons) -> None:
    """Closing with bytes unread would reset the connection, and with it what the client has not got yet."""
    daemon = daemons.start("--framing", "resp", handler="sample:boom_resp")
    client = daemon.connect()
    client.send(b"x\r\n" * 10 + b"*1\r\n$-5\r\n" + b"y" * 200_000)
    error = b"-ERR Protocol error: invalid bulk length\r\n"
    assert client.receive(10 * 100_011 + len(error) + 1) == (b"$100000\r\n" + b"x" * 100_000 + b"\r\n") * 10 + error
    client.sock.close()
    daemon.until(connections=0)
    with daemon.connect() as client:
        client.send(b"*x\r\n")
        assert client.line().startswith(b"-ERR")
        began = time.monotonic()
        daemon.until(connections=0)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("framing", ["Fragile", "Eager"])
def test_a_framing_that_raises_ends_one_connection_and_is_logged_once(daemons: Daemons, framing: str) -> None:
    daemon = daemons.start("--framing", f"sample:{framing}")
    with daemon.connect() as other:
        for data in (b"!|", b"ok|!|", b"?|") if framing == "Fragile" else ():
            with daemon.connect() as client:
                client.send(data)
                assert client.receive(100) == (b"ok|error|" if data.startswith(b"ok") else b"error|")
        with daemon.connect() as client:  # nor is the end of file a reason to spin
            client.send(b"a|")
            assert client.receive(2) == b"a|"
            client.sock.shutdown(socket.SHUT_WR)
            client.receive(100)
            assert client.closed()
        other.send(b"fine|")
        assert other.receive(5) == b"fine|"
        assert daemon.until(connections=1)["errors"] == (3 if framing == "Fragile" else 1)
    assert daemon.log.count("Traceback") == (2 if framing == "Fragile" else 1)


@pytest.mark.timed
def test_an_await_stalls_nobody_and_keeps_order(daemons: Daemons) -> None:
    daemon = daemons.start(handler="sample:slow")
    with daemon.connect() as waiting, daemon.connect() as other:
        began = time.monotonic()
        waiting.send(b"wait0.5\nsecond\n")
        assert other.ask(b"quick\n") == b"quick\n"
        assert time.monotonic() - began < 0.3
        assert waiting.receive(15) == b"wait0.5\nsecond\n"
        assert time.monotonic() - began >= 0.45


def test_a_client_that_leaves_during_an_await_is_cleaned_up(daemons: Daemons) -> None:
    daemon = daemons.start(handler="sample:slow")
    with daemon.connect() as client:
        client.send(b"wait0.3\n")
        wait_for(lambda: daemon.status()["bytes_in"], "the request")
    daemon.until(connections=0)
    assert "Traceback" not in daemon.log


@pytest.mark.timed
def test_workers_answer_in_order_in_parallel_and_survive(daemons: Daemons) -> None:
    daemon = daemons.start("--workers", "2", handler="sample:blocking")
    clients = [daemon.connect() for _ in range(4)]
    began = time.monotonic()
    for client in clients:
        client.send(b"a\nb\n")
    for client in clients:
        assert client.receive(4) == b"a\nb\n"
    assert time.monotonic() - began < 1.4  # 8 requests of 0.2 s on 2 workers take 0.8 s, on one 1.6 s
    clients[0].send(b"boom\n")
    assert clients[0].closed()
    clients[1].send(b"die\n")
    assert clients[1].closed()
    assert clients[2].ask(b"after\n") == b"after\n"
    for client in clients:
        client.sock.close()
    daemon.until(connections=0)


def children(daemon: Daemon) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process has ended, and perhaps waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_worker_that_died_while_idle_costs_nobody_anything(daemons: Daemons) -> None:
    daemon = daemons.start("--workers", "2", handler="sample:blocking")
    for _ in range(2):
        for pid in children(daemon):
            os.kill(pid, signal.SIGKILL)
            wait_for(partial(gone, pid), "the end of a worker")
        with daemon.connect() as client:
            assert client.ask(b"x\n") == b"x\n"
        wait_for(lambda: len(children(daemon)) == 2, "two new workers")
    assert daemon.status()["errors"] == 0


def test_what_cannot_be_pickled_or_read_costs_a_request_and_no_worker(daemons: Daemons) -> None:
    daemon = daemons.start("--workers", "1", handler="sample:blocking")
    (worker,) = children(daemon)
    for _ in range(2):
        with daemon.connect() as client:
            client.send(b"unreadable\n")
            assert client.closed()
    with daemon.connect() as client:
        assert client.ask(b"x\n") == b"x\n"
    assert children(daemon) == [worker]
    assert "not to be read" in daemon.log
    other = daemons.start("--workers", "1", "--framing", "sample:Unpicklable", handler="sample:blocking")
    with other.connect() as client:
        client.send(b"a|")
        assert client.closed()
    with other.connect() as client:
        client.send(b"fine|")
        assert client.receive(5) == b"fine|"


def test_a_worker_that_cannot_be_started_is_tried_again(daemons: Daemons) -> None:
    daemon = daemons.start("--workers", "1", handler="sample:blocking")
    with daemon.connect() as client:
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, before[1]))  # none is free
        os.kill(children(daemon)[0], signal.SIGKILL)
        wait_for(lambda: "worker-failed" in daemon.log, "a vain attempt")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        assert client.ask(b"x\n") == b"x\n"


def test_each_place_that_raises_in_a_worker_is_logged_once(daemons: Daemons) -> None:
    daemon = daemons.start("--workers", "2", handler="sample:blocking")
    for data in (b"boom\n", b"boom again\n", b"boom\n", b"boom again\n"):
        with daemon.connect() as client:
            client.send(data)
            assert client.closed()
    assert daemon.status()["errors"] == 4
    assert daemon.log.count("handler-failed") == 2


def test_the_loops_lag_counts_from_the_moment_it_is_ready(daemons: Daemons) -> None:
    (daemons.directory / "slow_import.py").write_text("import time\ntime.sleep(0.5)\nrespond = bytes.upper\n")
    assert daemons.start(handler="slow_import:respond").status()["max_loop_lag_us"] < 400_000


def test_a_class_keeps_state_per_connection(daemons: Daemons) -> None:
    daemon = daemons.start(handler="sample:Counter")
    with daemon.connect() as one, daemon.connect() as two:
        assert [one.ask(b"a\n"), one.ask(b"b\n"), two.ask(b"c\n")] == [b"a 1\n", b"b 2\n", b"c 1\n"]
        local, peer = two.sock.getpeername(), two.sock.getsockname()
        assert two.ask(b"addresses\n").decode().strip() == repr((*local, *peer))
        one.send(b"close\n")
        assert one.receive(100) in (b"", b"close 3\n")
    daemon.until(connections=0)
    assert sorted(line for line in daemon.log.splitlines() if line.startswith("disc")) == [
        "disconnected 2",
        "disconnected 3",
    ]


def test_a_framing_of_ones_own(daemons: Daemons) -> None:
    daemon = daemons.start("--framing", "sample:Pipe")
    with daemon.connect() as client:
        client.send(b"one|two|th")
        assert client.receive(8) == b"one|two|"
        client.send(b"ree|")
        assert client.receive(6) == b"three|"


def test_length_prefixes(daemons: Daemons) -> None:
    daemon = daemons.start("--framing", "length")
    with daemon.connect() as client:
        client.send(b"\0\0\0\5hello\0\0\0\0\0\0\0\1")
        assert client.receive(13) == b"\0\0\0\5hello\0\0\0\0"
        client.send(b"x")
        assert client.receive(5) == b"\0\0\0\1x"
        client.send(b"\xff\xff\xff\xff")
        assert client.closed()


@pytest.mark.timed
def test_two_writes_under_nagle_are_not_delayed(daemons: Daemons) -> None:
    daemon = daemons.start()
    with daemon.connect() as client:
        client.ask(b"warm\n")
        took = []
        for _ in range(20):
            began = time.monotonic()
            client.send(b"first half ")
            client.send(b"second half\n")
            client.line()
            took.append(time.monotonic() - began)
        assert sorted(took)[10] < 0.02, took  # the delayed ACK would make it 0.04


def test_out_of_descriptors_accepting_pauses_without_spinning_and_resumes(daemons: Daemons) -> None:
    daemon = daemons.start("--max-connections", "1000", descriptors=60)
    clients: list[Client] = [daemon.connect() for _ in range(80)]
    try:
        wait_for(lambda: "accept-paused" in daemon.log, "a pause")
        used = _cpu(daemon.pid)
        time.sleep(1)
        assert _cpu(daemon.pid) - used < 0.3, "it spins"
        for client in clients[:40]:
            client.sock.close()
        for client in clients[40:]:
            assert client.ask(b"x\n") == b"x\n"
    finally:
        for client in clients:
            client.sock.close()


def test_connections_over_the_limit_wait_in_the_backlog(daemons: Daemons) -> None:
    daemon = daemons.start("--max-connections", "2")
    with daemon.connect() as one, daemon.connect() as two, daemon.connect() as three:
        assert one.ask(b"1\n") + two.ask(b"2\n") == b"1\n2\n"
        three.send(b"3\n")
        three.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            three.line()
        one.sock.close()
        three.sock.settimeout(5)
        assert three.line() == b"3\n"


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat") as file:  # noqa: PTH123  one read of a kernel file
        return int(file.read().split()[0]) / 1e9
