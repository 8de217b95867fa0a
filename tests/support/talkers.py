"""Clients in a box: each asks numbered questions without pause and checks that every reply comes once, and in order.

One line of JSON on stdin: ``sources`` ([service, client address] each), ``port``, ``every`` (seconds between two
questions of one), ``fast`` (so many of them ask each 5 ms instead), ``sizes`` of questions in bytes, ``mute`` (so many
do not read until the end), ``counted`` (the server says its own count of a connection's questions before each reply).
They connect, say so, and on a line "report" print: connected, replies (``fewest``: those on one connection), lost,
errors, wrong; of each connection's longest wait since the last report what 999 of 1,000 stay below (``p999_ms``), and
the longest, in ms. On "stop" they finish first.
"""

from __future__ import annotations

import heapq
import json
import random
import selectors
import socket
import sys
import time

FAST = 0.005


class Talker:
    def __init__(self, service: str, source: str, port: int, *, every: float, mute: bool, counted: bool) -> None:
        family = socket.AF_INET6 if ":" in service else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.bind((source, 0))
        self.sock.settimeout(20)
        self.sock.connect((service, port))
        self.sock.setblocking(False)
        self.every, self.mute, self.counted, self.asked, self.answered = every, mute, counted, 0, 0
        self.longest = 0.0
        self.got, self.unsent, self.since, self.error, self.wrong = b"", b"", 0.0, "", 0
        self.expected: list[bytes] = []

    def ask(self, size: int, now: float) -> None:
        self.asked += 1
        line = b"%d %s\n" % (self.asked, b"x" * size)
        self.expected.append(b"%d %s" % (self.asked, line) if self.counted else line)
        self.unsent += line
        self.since = self.since or now
        self.push()

    def push(self) -> None:
        try:
            if self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self.error = str(error)

    def read(self, now: float) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            self.error = str(error)
            return
        if not data:
            self.error = "end of file"
        self.got += data
        while b"\n" in self.got:
            line, _, self.got = self.got.partition(b"\n")
            self.wrong += not self.expected or line + b"\n" != self.expected.pop(0)
            self.answered += 1
            if not self.expected:
                self.longest = max(self.longest, now - self.since)
                self.since = 0.0

    @property
    def due(self) -> bool:
        """Whether it may ask: its last question is answered, or it is mute and has not asked enough."""
        return not self.error and (not self.expected or (self.mute and self.asked < 60))


def main() -> None:
    job = json.loads(sys.stdin.readline())
    fast, mute = job.get("fast", 0), job.get("mute", 0)
    talkers = [
        Talker(
            service,
            source,
            job["port"],
            every=FAST if number >= len(job["sources"]) - fast else job["every"],
            mute=number < mute,
            counted=job.get("counted", False),
        )
        for number, (service, source) in enumerate(job["sources"])
    ]
    print("connected", flush=True)
    chance, selector = random.Random(1), selectors.DefaultSelector()
    for talker in talkers:
        if not talker.mute:
            selector.register(talker.sock, selectors.EVENT_READ, talker)
    selector.register(sys.stdin, selectors.EVENT_READ)
    begin = time.monotonic()
    order = [(begin + chance.random() * talker.every, number) for number, talker in enumerate(talkers)]
    heapq.heapify(order)
    stopping, deadline = False, 0.0
    stuck: set[Talker] = set()
    sizes = job.get("sizes", [8])
    while True:
        now = time.monotonic()
        while not stopping and order[0][0] <= now:
            number = order[0][1]
            talker = talkers[number]
            if talker.due:
                talker.ask(chance.choice(sizes), now)
                if talker.unsent:
                    stuck.add(talker)
            heapq.heapreplace(order, (now + talker.every * (0.5 + chance.random()), number))
        for key, _ in selector.select(0.005 if stopping else max(0.0, min(0.005, order[0][0] - time.monotonic()))):
            if key.data is not None:
                key.data.read(time.monotonic())
                if key.data.error:
                    selector.unregister(key.data.sock)
            elif (line := sys.stdin.readline()) == "report\n":
                report(talkers)
            elif line:
                stopping, deadline = True, time.monotonic() + 15
                selector.unregister(sys.stdin)
                for talker in talkers:
                    if talker.mute:
                        selector.register(talker.sock, selectors.EVENT_READ, talker)
            else:
                return  # the test has ended
        for talker in tuple(stuck):
            talker.push()
            if talker.error or not talker.unsent:
                stuck.remove(talker)
        if stopping:
            waiting = [talker for talker in talkers if talker.expected and not talker.error]
            if not waiting or time.monotonic() > deadline:
                break
    report(talkers)


def report(talkers: list[Talker]) -> None:
    waits = sorted(talker.longest for talker in talkers if not talker.mute)
    found = {
        "connected": len(talkers),
        "replies": sum(talker.answered for talker in talkers),
        "fewest": min(talker.answered for talker in talkers),
        "lost": sum(bool(talker.expected) for talker in talkers),
        "wrong": sum(talker.wrong for talker in talkers),
        "errors": sorted({talker.error for talker in talkers if talker.error}),
        "failed": sum(bool(talker.error) for talker in talkers),
        "p999_ms": round(waits[max(0, len(waits) - 1 - len(waits) // 1000)] * 1000, 1) if waits else 0.0,
        "longest_ms": [round(wait * 1000, 1) for wait in waits[-5:]],
    }
    print(json.dumps(found), flush=True)
    for talker in talkers:
        talker.longest = 0.0


if __name__ == "__main__":
    main()
