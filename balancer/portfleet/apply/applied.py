"""What shall be by the config that was applied last and the journal, made anew only when one of them has changed."""

from __future__ import annotations

from portfleet.apply.context import Context
from portfleet.core.desired import Desired
from portfleet.core.journal import Journal, JournalError
from portfleet.core.model import Fleet
from portfleet.store import atomic


class Applied:
    """What the watcher and its operations go by. Methods raise PortfleetError for what cannot be read."""

    def __init__(self, context: Context) -> None:
        self._context = context
        #: The version of the config's file that was read last (`atomic.version`).
        self.version: tuple[int, int] | None = None
        self._fleet: Fleet | None = None
        #: The config, the journal and the instances' ports that ``_desired`` was made of.
        self._basis: tuple[Fleet, Journal | JournalError | None, dict[str, int]] | None = None
        self._ports: dict[str, int] = {}
        self._ports_version: object = None
        self._desired: Desired | None = None

    def fleet(self) -> Fleet:
        """Return the config that was applied last; raises ConfigError if there is none."""
        version = atomic.version(self._context.paths.applied)
        if self._fleet is None or version != self.version:
            self._fleet, self.version = self._context.read_applied(), version
        return self._fleet

    def desired(self) -> Desired:
        """Return what shall be; as long as nothing has changed it is the same object."""
        fleet, found, ports = self.fleet(), self._found(), self._moved()
        before = self._basis
        if self._desired is None or before is None or before[0] is not fleet or before[1] is not found or (
            before[2] is not ports and before[2] != ports
        ):  # fmt: skip
            self._desired, self._basis = self._context.desired(fleet), (fleet, found, ports)
        return self._desired

    def _moved(self) -> dict[str, int]:
        """Return the ports of the instances' last starts, read again when one was started: its file is a new one."""
        folder = self._context.paths.programs
        version = folder.stat().st_mtime_ns if folder.exists() else None
        if version != self._ports_version:
            self._ports, self._ports_version = self._context.ports(), version
        return self._ports

    def _found(self) -> Journal | JournalError | None:
        try:
            return self._context.store.read()
        except JournalError as error:
            return error  # the same one until the file changes: what runs is not looked at for it again and again
