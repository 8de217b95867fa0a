"""Clients in a box: each asks numbered questions without pause and checks that every reply comes once, and in order.

One line of JSON on stdin: ``sources`` ([service, client address] each), ``port``, ``every`` (seconds between two
questions of one), ``sizes`` of questions in bytes, ``mute`` (so many do not read until the end). They connect, say so,
and on a line "stop" finish and print: connected, replies, lost, errors, wrong, the longest waits in ms.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import sys
import time


class Talker:
    def __init__(self, service: str, source: str, port: int, *, mute: bool) -> None:
        family = socket.AF_INET6 if ":" in service else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.bind((source, 0))
        self.sock.settimeout(20)
        self.sock.connect((service, port))
        self.sock.setblocking(False)
        self.mute, self.asked, self.answered = mute, 0, 0
        self.waits: list[float] = []
        self.got, self.unsent, self.since, self.error, self.wrong = b"", b"", 0.0, "", 0
        self.expected: list[bytes] = []

    def ask(self, size: int, now: float) -> None:
        self.asked += 1
        line = b"%d %s\n" % (self.asked, b"x" * size)
        self.expected.append(line)
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
                self.waits.append(now - self.since)
                self.since = 0.0


def main() -> None:
    job = json.loads(sys.stdin.readline())
    talkers = [
        Talker(service, source, job["port"], mute=number < job.get("mute", 0))
        for number, (service, source) in enumerate(job["sources"])
    ]
    print("connected", flush=True)
    chance, selector = random.Random(1), selectors.DefaultSelector()
    for talker in talkers:
        if not talker.mute:
            selector.register(talker.sock, selectors.EVENT_READ, talker)
    selector.register(sys.stdin, selectors.EVENT_READ)
    due = [(chance.random() * job["every"], talker) for talker in talkers]
    begin, stopping, deadline = time.monotonic(), False, 0.0
    sizes = job.get("sizes", [8])
    while True:
        now = time.monotonic()
        if not stopping:
            for place, (at, talker) in enumerate(due):
                if now - begin >= at and not talker.error:
                    if not talker.expected or (talker.mute and talker.asked < 60):
                        talker.ask(chance.choice(sizes), now)
                    due[place] = (now - begin + job["every"] * (0.5 + chance.random()), talker)
        for key, _ in selector.select(0.005):
            if key.data is not None:
                key.data.read(now := time.monotonic())
                if key.data.error:
                    selector.unregister(key.data.sock)
            elif sys.stdin.readline():
                stopping, deadline = True, time.monotonic() + 15
                selector.unregister(sys.stdin)
                for talker in talkers:
                    if talker.mute:
                        selector.register(talker.sock, selectors.EVENT_READ, talker)
            else:
                return  # the test has ended
        for talker in talkers:
            if talker.unsent and not talker.error:
                talker.push()
        waiting = [talker for talker in talkers if talker.expected and not talker.error]
        if stopping and (not waiting or time.monotonic() > deadline):
            break
    waits = sorted(wait for talker in talkers if not talker.mute for wait in talker.waits)
    found = {
        "connected": len(talkers),
        "replies": sum(talker.answered for talker in talkers),
        "lost": sum(bool(talker.expected) for talker in talkers),
        "wrong": sum(talker.wrong for talker in talkers),
        "errors": sorted({talker.error for talker in talkers if talker.error}),
        "failed": sum(bool(talker.error) for talker in talkers),
        "longest_ms": [round(wait * 1000, 1) for wait in waits[-5:]],
    }
    print(json.dumps(found))


main()
