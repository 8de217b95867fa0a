"""Has attempts to connect that an ejected instance did not answer begin anew, outside the watcher's loop."""

from __future__ import annotations

import asyncio

from portfleet.core.changes import InstanceRule
from portfleet.dataplane.interface import Connections
from portfleet.store.log import Log


class Forgetter:
    """Forgets unanswered attempts in another thread: that may walk every connection of the machine."""

    def __init__(self, connections: Connections, log: Log) -> None:
        self._connections, self._log = connections, log
        self._loop = asyncio.get_running_loop()

    def begin(self, instance: InstanceRule) -> None:
        """Begin to forget the attempts that ``instance`` did not answer; what is refused is logged."""
        self._loop.run_in_executor(None, self._forget, instance)

    def _forget(self, instance: InstanceRule) -> None:
        with self._log.costs(f"unanswered attempts of {instance.name}"):
            if count := self._connections.forget_unanswered(instance):
                reason = "their next attempt goes elsewhere"
                self._log("forgot-unanswered", instance=instance.name, count=count, reason=reason)
