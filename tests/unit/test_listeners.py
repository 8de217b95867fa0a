"""Instances that are only connected to rest as long as the kernel says the same of their listeners."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from portfleet.core.policies import Probe
from portfleet.daemons.exchange import Port
from portfleet.daemons.probe import Target
from portfleet.linux import sockdiag
from portfleet.watch.listeners import Listeners
from portfleet.watch.prober import Prober
from support.sandbox import wait_for


class Daemon:
    """Listens, and accepts what waits when a test says so; ``served`` counts connections."""

    def __init__(self, port: int = 0) -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        self.listener.setblocking(False)
        self.served = 0

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def accept(self) -> None:
        """Accept and close what waits."""
        with suppress(BlockingIOError):
            while True:
                self.listener.accept()[0].close()
                self.served += 1


class Probed:
    """The prober of one daemon without a control socket, whose time goes on when a test says so."""

    def __init__(self, interval: float = 1.0, control: Path | None = None) -> None:
        self.daemon, self.now = Daemon(), 1000.0
        self.results: list[str] = []
        self.prober = Prober(self._told, lambda: self.now, lambda _: os.getpid())
        place = Port("127.0.0.1", self.daemon.port)
        self.prober.aim([Target("a", place, str(control) if control else None, Probe(interval=interval, timeout=10))])
        self.rests = self.prober.listeners.rests

    def _told(self, _: str, trouble: str, __: bool) -> bool:
        self.results.append(trouble)
        return not trouble

    def steps(self, number: int) -> None:
        """Have so many tenths of a second pass; what comes to the daemon is accepted."""
        for _ in range(number):
            self.now += 0.1
            self.read(lambda: not self.prober._probes)

    def read(self, condition: Callable[[], object]) -> None:
        def holds() -> object:
            self.daemon.accept()
            return self.prober.tick() >= 0 and condition()

        wait_for("it is so", holds)


@pytest.fixture
def resting() -> Iterator[Probed]:
    """One that has gone through its port just now, and rests."""
    found = Probed()
    served = 0
    while found.daemon.served < 2 or not found.rests("a"):
        found.steps(1)
        served += 1
        assert served < 1500
    found.results.clear()
    found.daemon.served = 0
    yield found
    found.daemon.listener.close()


def test_one_that_rests_has_no_results_but_those_of_its_port(resting: Probed) -> None:
    resting.steps(1250)
    assert resting.daemon.served == 2
    assert resting.results == [""] * 2


def test_one_whose_listener_has_gone_is_probed_within_a_second(
    resting: Probed, monkeypatch: pytest.MonkeyPatch
) -> None:
    resting.daemon.listener.close()
    monkeypatch.setattr(resting.daemon, "accept", lambda: None)
    resting.steps(11)
    assert "ECONNREFUSED" in resting.results[0]
    resting.steps(30)
    assert len(resting.results) >= 3, "and each interval from then on"


def test_one_whose_listener_is_another_is_looked_at_and_rests_again(resting: Probed) -> None:
    port = resting.daemon.port
    resting.daemon.listener.close()
    resting.daemon = Daemon(port)
    resting.steps(11)
    assert resting.results == [""] and resting.rests("a")
    resting.daemon.listener.close()


def test_one_for_whom_connections_wait_is_connected_to_each_interval(
    resting: Probed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its queue becomes full, and then it fails: that is how one that hangs is found."""
    monkeypatch.setattr(resting.daemon, "accept", lambda: None)
    with socket.create_connection(("127.0.0.1", resting.daemon.port)):
        resting.steps(62)
    monkeypatch.undo()
    resting.steps(30)
    assert resting.rests("a") and resting.daemon.served >= 1 + 5


def test_one_that_gets_a_control_socket_is_asked_there_within_a_second(tmp_path: Path) -> None:
    path, probed = tmp_path / "c", Probed(control=tmp_path / "c")
    while not probed.rests("a"):
        probed.steps(1)
    (tmp_path / "other").touch()
    probed.steps(11)
    assert probed.rests("a")
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(path))
        control.listen()
        probed.now += 1.0
        probed.prober.tick()
        control.settimeout(60)
        control.accept()[0].close()
    probed.daemon.listener.close()


def test_one_with_a_control_socket_on_which_no_process_listens_takes_its_turns(tmp_path: Path) -> None:
    probed = Probed(control=tmp_path / "c")
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(tmp_path / "c"))
        probed.steps(100)
    assert not probed.rests("a") and len(probed.results) >= 9 and not any(probed.results)
    probed.daemon.listener.close()


def test_others_listeners_change_nothing(resting: Probed) -> None:
    other = Daemon()
    resting.steps(11)
    other.listener.close()
    resting.steps(11)
    assert resting.results == [] and resting.rests("a")


def test_one_that_is_not_probed_any_more_rests_no_longer(resting: Probed) -> None:
    resting.prober.aim([])
    assert not resting.rests("a")


def test_where_the_kernel_does_not_tell_all_take_turns(resting: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> bytes:
        raise OSError

    monkeypatch.setattr(sockdiag.ListenDump, "read", refuse)
    resting.steps(50)
    assert not resting.rests("a")
    assert 4 <= len(resting.results) <= 6 and not any(resting.results)
    with pytest.raises(OSError):
        resting.prober.listeners.pairs()
    monkeypatch.undo()
    resting.steps(30)
    assert resting.rests("a")


def test_one_that_is_probed_more_often_than_listeners_are_looked_at_takes_its_turns() -> None:
    probed = Probed(interval=0.5)
    probed.steps(100)
    assert not probed.rests("a") and len(probed.results) >= 19
    probed.daemon.listener.close()


def test_of_two_at_one_port_the_second_takes_its_turns() -> None:
    daemon, listeners = Daemon(), Listeners(lambda: 0.0)
    place = Port("127.0.0.1", daemon.port)
    one, other = (Target(name, place, None, Probe(interval=1.0)) for name in ("a", "b"))
    assert not listeners.rest(one), "it has not been seen before"
    listeners.changed()
    assert listeners.rest(one) and not listeners.rest(other)
    assert listeners.wake("a") and not listeners.wake("b") and listeners.rest(other)
    daemon.listener.close()


def test_who_listens_is_the_same_object_as_long_as_it_is_the_same() -> None:
    now, daemon = 0.0, Daemon()
    listeners = Listeners(lambda: now)
    before = listeners.pairs()
    assert daemon.port in {port for port, _ in before}
    with socket.create_connection(("127.0.0.1", daemon.port)):  # which waits: the kernel says something else of it
        now += 1.0
        assert {pair for pair in listeners.pairs() if pair[0] == daemon.port} <= before
    other = Daemon()
    assert other.port not in {port for port, _ in listeners.pairs()}, "at most a second old"
    now += 1.0
    assert other.port in {port for port, _ in listeners.pairs()}
    for one in (daemon, other):
        one.listener.close()


def test_a_dump_that_has_not_changed_is_the_same_bytes() -> None:
    families, dump = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}, sockdiag.ListenDump()
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server((host, 0), family=f)) for host, f in families.items()]
        ports = {server.getsockname()[1] for server in servers}
        mine = [{one for one in sockdiag.by_port(dump.read()) if one[0] in ports} for _ in range(2)]
    assert mine[0] == mine[1] and {port for port, _, _ in mine[0]} == ports
