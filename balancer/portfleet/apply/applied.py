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
        self._version: object = None
        self._fleet: Fleet | None = None
        #: The config and the journal that ``_desired`` was made of.
        self._basis: tuple[Fleet, Journal | JournalError | None] | None = None
        self._desired: Desired | None = None

    def fleet(self) -> Fleet:
        """Return the config that was applied last; raises ConfigError if there is none."""
        version = atomic.version(self._context.paths.applied)
        if self._fleet is None or version != self._version:
            self._fleet, self._version = self._context.read_applied(), version
        return self._fleet

    def desired(self) -> Desired:
        """Return what shall be; as long as nothing has changed it is the same object."""
        fleet, found = self.fleet(), self._found()
        if self._desired is None or self._basis is None or self._basis[0] is not fleet or self._basis[1] is not found:
            self._desired, self._basis = self._context.desired(fleet), (fleet, found)
        return self._desired

    def _found(self) -> Journal | JournalError | None:
        try:
            return self._context.store.read()
        except JournalError as error:
            return error  # the same one until the file changes: what runs is not looked at for it again and again
