"""The examples as their first lines say to run them, with real clients."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemons import Daemon, Daemons, daemons_in

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def examples(tmp_path: Path) -> Iterator[Daemons]:
    for name in ("echo", "cache", "blocking", "ticker"):
        shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    with daemons_in(tmp_path) as started:
        yield started


def redis(daemon: Daemon, *arguments: str) -> str:
    command = ["redis-cli", "-p", str(daemon.port), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def test_echo(examples: Daemons) -> None:
    daemon = examples.start(handler="echo:respond")
    with daemon.connect() as client:
        assert client.ask(b"hello\n") == b"HELLO\n"


def test_the_cache_by_redis_cli(examples: Daemons) -> None:
    daemon = examples.start("--framing", "resp", handler="cache:respond")
    assert redis(daemon, "PING") == "PONG"
    assert redis(daemon, "ping", "two words") == "two words"
    assert redis(daemon, "ECHO", "hi") == "hi"
    assert redis(daemon, "SET", "greeting", "hello world") == "OK"
    assert redis(daemon, "GET", "greeting") == "hello world"
    assert redis(daemon, "GET", "none") == ""
    assert redis(daemon, "DEL", "greeting", "none") == "1"
    assert redis(daemon, "INFO") == "hits:1\nmisses:1"
    assert redis(daemon, "FLY") == "ERR unknown command b'FLY'"
    assert redis(daemon, "GET") == "ERR wrong number of arguments, it is GET key"
    script = "\n".join(f"SET key{number} {'v' * (number + 1)}" for number in range(200))
    command = ["redis-cli", "-p", str(daemon.port)]
    piped = subprocess.run(command, input=script, capture_output=True, text=True, timeout=20, check=True)
    assert piped.stdout.split() == ["OK"] * 200
    assert redis(daemon, "DBSIZE") == "200"
    assert daemon.status()["errors"] == 0


@pytest.mark.parametrize("pipeline", ["1", "16"])
def test_the_cache_by_redis_benchmark(examples: Daemons, pipeline: str) -> None:
    daemon = examples.start("--framing", "resp", handler="cache:respond")
    base = [
        "redis-benchmark",
        "-p",
        str(daemon.port),
        "-n",
        "5000",
        "-c",
        "50",
        "-P",
        pipeline,
        "-d",
        "64",
        "-r",
        "100",
    ]
    for tests in (["-t", "ping_mbulk,ping_inline,set,get", "--csv"], ["ECHO", "hi"]):
        done = subprocess.run([*base, *tests], capture_output=True, text=True, timeout=60, check=True)
        assert "rror" not in done.stdout + done.stderr and "WARNING" not in done.stderr, done.stdout + done.stderr
    status = daemon.until(connections=0)
    assert status["requests"] >= 25_000
    assert status["errors"] == 0


def test_the_blocking_handler_in_workers(examples: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDS_DB", str(tmp_path / "words.db"))
    daemon = examples.start("--workers", "3", handler="blocking:respond")
    answers: list[bytes] = []

    def ask() -> None:
        with daemon.connect() as client:
            answers.extend(client.ask(b"word\n") for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(answer.split()[1]) for answer in answers) == list(range(1, 121))
    assert time.monotonic() - began < 30
    assert daemon.status()["errors"] == 0
