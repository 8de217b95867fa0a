"""A guardian at work beside a test: it is told, and works, as the watcher has it do."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from portfleet.dataplane.interface import Done, Door
from support.plane import Plane


@dataclass
class Guarded:
    """What a guardian did until now."""

    done: list[Done] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)

    @property
    def restored(self) -> int:
        return sum(int(str(one.fields.get("restored", 0))) for one in self.done)


def doors(rules: Plane) -> tuple[Door, ...]:
    """Return the doors of everything that was loaded."""
    services = [want.service for want in rules.desired.services.values()]
    return tuple(Door(service.listen, service.ports) for service in services)


@contextmanager
def guarded(rules: Plane, *, told: bool = True) -> Iterator[Guarded]:
    """Have a guardian look after the connections of ``rules`` while the block runs; not ``told``: it has to ask."""
    guardian, found, over = rules.kernel.guardian(), Guarded(), threading.Event()
    guardian.hold(doors(rules))

    def serve() -> None:
        poll = select.poll()
        poll.register(guardian.fileno() or 0, select.POLLIN)
        try:
            while not over.is_set():
                due = guardian.due
                if not told:
                    over.wait(0.1)
                    guardian.hold(doors(rules))
                elif poll.poll(50 if due is None else due * 1000):
                    guardian.read()
                if guardian.due == 0:
                    found.done += guardian.work()
        except BaseException as error:
            found.failed.append(error)
            raise

    thread = threading.Thread(target=serve)  # in the network that this thread is in
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        guardian.close()
        assert not found.failed, found.failed
