"""HAProxy under load: what a client meets while tables change, and that its hash is the one computed offline."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pytest

from portfleet.core import changes as c
from portfleet.core.access import Access, Range
from portfleet.core.model import Affinity, Listen
from portfleet.dataplane.haproxy.affinity import slot_for
from portfleet.dataplane.haproxy.xxh32 import xxh32
from support.haproxies import Haproxies, haproxies
from support.netns import network_of
from support.sandbox import make_box, wait_for

ECHO = c.ServiceRule("echo", Affinity("source"), 386150450, 4096)
INSTANCES = [c.InstanceRule(f"echo-blue-{number}", number, 7100 + number) for number in (1, 2, 3)]
ONE, TWO, THREE = (rule.name for rule in INSTANCES)
#: Clients of this box dial from these, all of which are its own.
SOURCES = [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(500)]


def test_the_hash_is_the_published_one() -> None:
    vectors = {b"": 0x02CC5D05, b"a": 0x550D7456, b"abc": 0x32D153FF}
    assert {text: xxh32(text) for text in vectors} == vectors
    assert xxh32(bytes.fromhex("c6120007"), 4_000_000_000) == 0xC3187D79
    assert xxh32(bytes.fromhex("20010db8000100000000000000000000"), 24301) == 0x4FE621A4


@contextmanager
def serving() -> Iterator[None]:
    """Have each instance say its name to whoever connects, and stay until the client ends."""
    listeners = [socket.create_server(("127.0.0.1", rule.port), backlog=1024) for rule in INSTANCES]
    threads = [
        threading.Thread(target=accept, args=(listener, rule.name))
        for listener, rule in zip(listeners, INSTANCES, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for listener, thread in zip(listeners, threads, strict=True):
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            listener.close()


def accept(listener: socket.socket, name: str) -> None:
    with suppress(OSError):
        while True:
            threading.Thread(target=greet, args=(listener.accept()[0], name)).start()


def greet(client: socket.socket, name: str) -> None:
    with client, suppress(OSError):
        client.sendall(name.encode())
        client.recv(1)


def met(source: str) -> str:
    """Return the instance that a client meets; raise OSError if it is refused or reset."""
    with socket.create_connection(("127.0.0.1", 7000), timeout=10, source_address=(source, 0)) as client:
        return client.recv(100).decode()


@pytest.fixture(params=[2])
def running(request: pytest.FixtureRequest) -> Iterator[Haproxies]:
    """A service of three instances, none of which has slots; the parameter is the number of processes."""
    box = make_box("host")
    try:
        with network_of(box), serving(), haproxies(request.param) as found:
            found.plane.run((c.SetFleet("0" * 16), *map(c.SetInstance, INSTANCES), c.SetService(ECHO)))
            found.plane.run((c.SetListens(add={Listen(7000, None, (4, 6)): "echo"}),))
            yield found
    finally:
        box.close()


def table(*names: str) -> tuple[str, ...]:
    return (names * (4096 // len(names) + 1))[:4096]


@pytest.mark.long
@pytest.mark.parametrize("affinity", [Affinity("source"), Affinity("source", 24, 56), Affinity("connection")], ids=str)
def test_each_client_meets_the_instance_that_is_computed_offline(running: Haproxies, affinity: Affinity) -> None:
    rule, slots = replace(ECHO, affinity=affinity), table(ONE, TWO, THREE)
    running.plane.run((c.SetService(rule), c.Route(rule, slots)))

    for source in SOURCES:
        with socket.create_connection(("127.0.0.1", 7000), timeout=10, source_address=(source, 0)) as client:
            port = client.getsockname()[1]
            slot = slot_for(affinity, ipaddress.ip_address(source), port, seed=rule.seed, slots=4096)
            assert slot is not None and client.recv(100).decode() == slots[slot]


@pytest.mark.long
@pytest.mark.parametrize("changes", [60, pytest.param(1000, marks=pytest.mark.full)])
def test_changes_of_the_whole_table_fail_no_connect_and_send_none_elsewhere(running: Haproxies, changes: int) -> None:
    running.plane.run((c.Route(ECHO, table(ONE)),))
    seen, failed, stop = Counter[str](), list[str](), threading.Event()

    def ask(first: int) -> None:
        number = first
        while not stop.is_set():
            number += 1
            try:
                seen[met(SOURCES[number % len(SOURCES)])] += 1
            except OSError as error:
                failed.append(str(error))

    threads = [threading.Thread(target=ask, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(changes):
        running.plane.run((c.Route(ECHO, table(TWO if number % 2 else ONE)),))
    stop.set()
    for thread in threads:
        thread.join()

    print(f"{changes} changes of 4,096 slots: {sum(seen.values()):,} connects, {len(failed)} failed, {dict(seen)}")
    assert failed == [] and set(seen) == {ONE, TWO} and min(seen.values()) > 5
    assert {met(source) for source in SOURCES[:50]} == {TWO if changes % 2 == 0 else ONE}


def test_one_that_does_not_listen_refuses_no_client_with_nothing_changed(running: Haproxies) -> None:
    """It is dispatched to an instance that serves; one that slots do not point at is never chosen for that."""
    gone = c.InstanceRule("echo-blue-9", 9, 7199)
    running.plane.run((c.SetInstance(gone),))
    running.plane.run((c.Route(ECHO, table(ONE, gone.name)),))
    assert Counter(met(source) for source in SOURCES[:100]) == {ONE: 100}


@pytest.mark.long
@pytest.mark.parametrize("running", [1], indirect=True)
def test_what_is_too_much_for_an_instance_goes_to_the_next_and_then_nowhere(running: Haproxies) -> None:
    limited, rule = [replace(one, limit=4) for one in INSTANCES[:2]], replace(ECHO, limited=True, tries=2)
    running.plane.run((*map(c.SetInstance, limited), c.SetService(rule)))
    running.plane.run((c.Route(rule, (ONE,) * 4095 + (TWO,), {}, (ONE, TWO)),))

    with ExitStack() as held:
        clients = [held.enter_context(socket.create_connection(("127.0.0.1", 7000), timeout=10)) for _ in range(8)]
        found = Counter(client.recv(100).decode() for client in clients)
        assert found == {ONE: 4, TWO: 4}
        with pytest.raises(ConnectionError):
            if not met(SOURCES[0]):
                raise ConnectionResetError


def test_who_is_denied_is_refused_and_counted(running: Haproxies) -> None:
    rule = replace(ECHO, filters=True)
    running.plane.run((c.SetService(rule), c.Route(rule, table(ONE))))
    running.plane.run((c.SetAccess("echo", Access(deny=(Range("127.1.0.1", "127.1.0.9"),))),))

    for source in SOURCES[:9]:
        with pytest.raises(ConnectionError):
            if not met(source):
                raise ConnectionResetError
    assert met(SOURCES[9]) == ONE
    assert running.plane.connections.refused("echo") == 9


def test_a_sticky_client_stays_where_it_was(running: Haproxies) -> None:
    rule = replace(ECHO, sticky=c.Sticky(60, 1000))
    running.plane.run((c.SetService(rule), c.Route(rule, table(ONE, TWO))))
    before = {source: met(source) for source in SOURCES[:40]}
    running.plane.run((c.Route(rule, table(TWO, ONE)),))
    wait_for("processes have told each other", lambda: all(
        running.plane.remembered(rule, ipaddress.ip_address(source)) == name for source, name in before.items()
    ))  # fmt: skip
    assert {source: met(source) for source in before} == before
