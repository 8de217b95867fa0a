"""The files that supervisord reads: its own config, and one file for each program.

Each is written anew before it is read: one that is damaged would keep supervisord from every program of every service.
What is not ours in the folder of programs is set aside, under a name that supervisord does not read.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from signal import Signals

from portfleet.apply import content, secrets
from portfleet.apply.rendered import Rendered
from portfleet.core.desired import Desired
from portfleet.core.errors import PortfleetError, Problem
from portfleet.core.model import parse_instance
from portfleet.core.paths import Paths
from portfleet.core.program import METRICS, WATCHER, Program, watch_program
from portfleet.linux.machine import environment_of
from portfleet.store import atomic
from portfleet.store.directories import make_directories
from portfleet.supervise import adopted
from portfleet.supervise.ini import fault, program_text, stop_signal, texts, write_config
from portfleet.supervise.program_digest import digest
from portfleet.supervise.supervisor import ProgramInfo


@dataclass(frozen=True)
class Files:
    """Writes supervisord's files for ``desired``. Methods raise OSError for what cannot be written."""

    desired: Desired
    paths: Paths
    _texts: dict[str, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    def lay_out(self) -> list[str]:
        """Write the file of every program that is to run and of no other, for a supervisord that is about to start.

        Those that have outlived an earlier supervisord are set aside: it would start them a second time. Return what
        else was set aside, in words.
        """
        said = self.put_right()
        # The data plane's own start when instances are ready: before that they would take clients for no instance.
        programs = {name: program for name, program in self._wanted.items() if name not in self.desired.own}
        for name in adopted.alive(self.paths):
            programs.pop(name, None)
            adopted.set_aside(self.paths, [name])
        for old in self.paths.programs.glob("*.conf"):
            if old.stem not in programs:
                self.forget(old.stem)
        faults = {name: error for name, error in self.faults().items() if name in programs}
        programs = {name: program for name, program in programs.items() if name not in faults}
        self.write(programs)
        content.note(self.paths, programs.values())
        return [*said, *(f"{name} is not started: {error.message}" for name, error in faults.items())]

    def put_right(self) -> list[str]:
        """Have only files in the folder of programs that supervisord can read, and its own config beside it.

        A program's damaged file is written anew, everything else that is damaged or not ours is set aside. Return what
        was done, in words.
        """
        make_directories(self.paths)
        write_config([service.service for service in self.desired.configured.values()], self.paths)
        said = []
        for path, why in self.damaged(texts(self.paths.programs, "conf")).items():
            done = []
            if path.stem not in self._wanted or not path.is_file():
                done.append(f"set aside as {_set_aside(path).name}")
            if path.stem in self._wanted:
                self.write({path.stem: self._wanted[path.stem]})
                done.append("written anew")
            said.append(f"{path}: {why}; {' and '.join(done)}")
        return said

    def damaged(self, there: Mapping[str, bytes | None]) -> dict[Path, str]:
        """Return which of the files that are ``there`` supervisord cannot read, or are not ours, with why."""
        found = {}
        for name, text in there.items():
            if not self._current(name, text) and (why := self._fault(path := self.paths.programs / f"{name}.conf")):
                found[path] = why
        return found

    def write(self, programs: Mapping[str, Program]) -> None:
        """Write the files of ``programs``."""
        for name, program in programs.items():
            text = self.text_of(program).encode()
            self._make_control_directory(Path(program.control), program.user)
            if program.files:
                atomic.write(self._list(name), "".join(f"{path}\n" for path in program.files).encode())
                self._rendered(program).write()
            path, aside = (self.paths.programs / f"{name}.{kind}" for kind in ("conf", "adopted"))
            if atomic.read(aside) == text:
                aside.replace(path)  # which takes no room on a full disk
            elif atomic.read(path) != text:
                atomic.write(path, text)

    def forget(self, name: str) -> None:
        """Remove the files of a program, so that no supervisord starts it, and those that were made for it."""
        for path in (atomic.read(self._list(name)) or b"").decode(errors="surrogateescape").splitlines():
            Path(path).unlink(missing_ok=True)
        for kind in ("conf", "adopted", "files", "content"):
            (self.paths.programs / f"{name}.{kind}").unlink(missing_ok=True)

    def faults(self) -> dict[str, Problem]:
        """Return what is wrong with templates, the places of the files made of them and secrets, by instance."""
        found = {}
        for name, program in self.desired.programs.items():
            for key, check in (("files", self._rendered(program).check), ("environment_file", self._secrets(program))):
                try:
                    check()
                except PortfleetError as error:
                    found[name] = Problem(f"service.{program.values['service']}.{key}", error.message, error.hint)
        return found

    def stop_signal(self, name: str) -> Signals:
        """Return the signal that ends what runs as ``name``, by the file that it was started from."""
        files = (self.paths.programs / f"{name}.{kind}" for kind in ("conf", "adopted"))
        return stop_signal(b"".join(atomic.read(file) or b"" for file in files).decode(errors="replace"))

    def outdated(self, name: str, known: ProgramInfo | None, there: Mapping[str, bytes | None]) -> bool:
        """Return whether a program runs otherwise than is desired, or its file is another.

        ``known``: what supervisord knows of it; ``there``: what is in its files. Of an adopted instance it knows
        nothing; the file of that, set aside, tells how it was started. A damaged file tells nothing.
        """
        try:
            desired = self._right(name, self.desired.programs[name])
        except PortfleetError:
            return False  # `faults` tells why it cannot be known
        if known is not None and known.runs_by not in (None, digest(desired)):
            return True
        if known is not None:
            file, text = f"{self._folder}/{name}.conf", there.get(name)
            lost = name not in there
        else:
            text = atomic.read(file := f"{self._folder}/{name}.adopted")
            lost = text is None and not os.path.lexists(file)
        if lost:
            return known is not None
        return text != desired and not fault(Path(file))

    def make_control_directories(self) -> None:
        """Make the directories of the control sockets of instances of other users."""
        for program in self.desired.programs.values():
            self._make_control_directory(Path(program.control), program.user)

    @property
    def watcher(self) -> Program:
        """The watcher's program, run by this interpreter."""
        return watch_program(self.paths, sys.executable)

    @cached_property
    def _wanted(self) -> dict[str, Program]:
        """The programs whose files are to be there, by name."""
        # No supervisord is to find a file of one in maintenance and start it.
        resting = {want.name for want in self.desired.instances() if want.program and not want.startable}
        running = {name: program for name, program in self.desired.programs.items() if name not in resting}
        return {**running, WATCHER: self.watcher}

    @cached_property
    def _folder(self) -> str:
        return str(self.paths.programs)

    def _current(self, name: str, text: bytes | None) -> bool:
        """Return whether the ``text`` of a program's file is as it is to be."""
        wanted = self._wanted.get(name)
        try:
            return wanted is not None and text == self._right(name, wanted)
        except PortfleetError:
            return False

    def _right(self, name: str, program: Program) -> bytes:
        """Return the text of a program's file as it is to be; raise PortfleetError as `text_of` does."""
        if name not in self._texts:
            self._texts[name] = self.text_of(program).encode()
        return self._texts[name]

    def _list(self, name: str) -> Path:
        """Return where it is noted which files were made for a program: the config may name others by now."""
        return self.paths.programs / f"{name}.files"

    def text_of(self, program: Program) -> str:
        """Return what supervisord is to read; it changes with what is in the program's files, as those do.

        Raise PortfleetError for templates and secrets that cannot be read.
        """
        given = self._secrets(program)()
        if program.user:
            given = environment_of(program.user) | given
        if made := self._rendered(program).digest():
            given["PORTFLEET_FILES"] = made
        return program_text(replace(program, environment={**given, **program.environment}) if given else program)

    def _rendered(self, program: Program) -> Rendered:
        return Rendered(program, self.paths.config.parent)

    def _secrets(self, program: Program) -> Callable[[], dict[str, str]]:
        """Return what reads a program's environment file."""
        name = program.environment_file
        return (lambda: secrets.read(self.paths.config.parent / name)) if name else dict

    def _fault(self, path: Path) -> str:
        if path.stem not in (METRICS, WATCHER) and parse_instance(path.stem) is None:
            return "it is not called like an instance"
        return fault(path)

    def _make_control_directory(self, control: Path, user: str | None) -> None:
        """Make a directory for the socket of a daemon of another user, which has no right to write to run/."""
        if user is None:
            return
        control.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(control.parent, user)


def _set_aside(path: Path) -> Path:
    """Rename a file so that supervisord does not read it, and return its new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside
