"""The configs that a verb goes by: the file's, and the one that was applied last, by which everything runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from portfleet.config.load import read
from portfleet.core.difference import differences
from portfleet.core.errors import ConfigError, Problem
from portfleet.core.model import Fleet
from portfleet.core.paths import Paths
from portfleet.linux.machine import read_machine


@dataclass
class Configs:
    """Both configs, read when they are first asked for. ``config_given``: the config, if it is not the file's."""

    paths: Paths
    config_given: bytes | None = field(default=None, kw_only=True)
    _told: set[str] = field(default_factory=set, init=False)

    @property
    def fleet(self) -> Fleet:
        """The config, to be applied here; raises ConfigError with every problem, this machine's too if it is new."""
        fleet, misfits = self._configured
        if misfits and not self.unchanged:
            raise ConfigError(misfits, source=str(self.paths.config))
        self._warn(misfits)
        return fleet

    @property
    def configured(self) -> Fleet:
        """The config, whatever this machine is; raises ConfigError for what is wrong on any."""
        return self._configured[0]

    @property
    def misfits(self) -> list[Problem]:
        """What this machine lacks for the config."""
        return self._configured[1]

    @property
    def unchanged(self) -> bool:
        """Return whether the config is the one that was applied last; False if one of them cannot be read."""
        try:
            return self.paths.applied.read_bytes() == self.config_text
        except (OSError, ConfigError):
            return False

    @cached_property
    def _configured(self) -> tuple[Fleet, list[Problem]]:
        return self._read(self.config_text, str(self.paths.config))

    @cached_property
    def config_text(self) -> bytes:
        """The config as it was read; raises ConfigError if it cannot be."""
        if self.config_given is not None:
            return self.config_given
        try:
            return self.paths.config.read_bytes()
        except OSError as error:
            hint = "write one with: portfleet init"
            if isinstance(error, PermissionError):
                hint = "run as root"
            problem = Problem("file", f"cannot be read: {error.strerror}", hint)
            raise ConfigError([problem], source=str(self.paths.config)) from None

    @cached_property
    def file_fleet(self) -> Fleet:
        """The config as it is in the file; if that is broken at the moment the one applied last, saying so."""
        try:
            return self.configured
        except ConfigError as error:
            if not self.paths.applied.exists():
                raise
            self.say(_broken(error))
            return self.applied_fleet

    @cached_property
    def serving_fleet(self) -> Fleet:
        """The config that was applied last, by which everything runs; the file's if none was, or that is damaged."""
        try:
            return self.applied_fleet
        except ConfigError:
            return self.configured

    def unapplied(self) -> str:
        """Return in words what the file says otherwise than the config applied last; "" if that is the same."""
        try:
            if self.unchanged or not self.paths.applied.exists():
                return ""
            words = differences(self.applied_fleet, self.configured)
        except ConfigError as error:
            return _broken(error)
        if not words:
            return ""  # comments, say
        return f"{self.paths.config} differs from what was applied, which is shown: {'; '.join(words)}"

    @cached_property
    def applied_fleet(self) -> Fleet:
        """The config that was applied last, saying what this machine has no longer for it; ConfigError without one."""
        if self.unchanged:  # nearly always; to check a config takes long
            fleet, misfits = self._configured
        else:
            fleet, misfits = self._read(self.applied_text, str(self.paths.applied))
        self._warn(misfits)
        return fleet

    def read_applied(self) -> Fleet:
        """Read the config that was applied last, as it is now; raises ConfigError if there is none."""
        return self._read(self.applied_text, str(self.paths.applied))[0]

    @property
    def applied_text(self) -> bytes:
        """The config that was applied last, as text; raises ConfigError if there is none."""
        try:
            return self.paths.applied.read_bytes()
        except OSError as error:
            problem = Problem("file", f"cannot be read: {error.strerror}", "portfleet up")
            raise ConfigError([problem], source=str(self.paths.applied)) from None

    def _warn(self, misfits: Iterable[Problem]) -> None:
        """Say what this machine has no longer: what was applied holds all the same."""
        for problem in misfits:
            self.say(f"warning: {problem.path}: {problem.message}")

    def _read(self, data: bytes, source: str) -> tuple[Fleet, list[Problem]]:
        fleet, misfits = read(data, read_machine(), source=source)
        sockets = [Path(self.paths.control(f"{s.name}-green-1000", user=s.user)) for s in fleet.services.values()]
        self.paths.check_socket(max(sockets, key=lambda path: len(bytes(path))))
        return fleet, misfits

    def say(self, text: str) -> None:
        """Tell the operator something, once; progress and remarks go to stderr, data to stdout."""
        if text not in self._told:
            self._told.add(text)
            print(f"portfleet: {text}", file=sys.stderr)


def _broken(error: ConfigError) -> str:
    """Return what is said of a config that cannot be read while another one is applied."""
    first = error.message.splitlines()[0]
    return f"{first}; going by the config applied last (portfleet check tells what is wrong)"
