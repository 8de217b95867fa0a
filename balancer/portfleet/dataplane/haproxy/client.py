"""A running HAProxy: asked and told through its sockets, brought to what its files say.

Facts (HAProxy 2.6 to 3.0): an error comes as text on an exchange that otherwise went well, so every command that
changes anything must be answered by nothing. 2.6 cuts what is longer than its buffer (16,384 bytes) without a word, so
payloads stay below it and what was written is read back. ``add map`` of a key that is there adds a second entry.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.observed import OwnProcess

#: Bytes of a payload at most.
_PAYLOAD = 15_000
#: Entries up to which single changes are quicker than a whole new version of a map (2.6: 55 µs for each).
_FEW = 40
#: Seconds for an answer, and for a reload, in which maps are read and others' processes keep the processors.
_PATIENCE, _RELOAD = 5.0, 20.0


class Absent(PortfleetError):
    """No process listens on the socket, or it ended before it answered."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no HAProxy answers at {path}", hint="portfleet up", code=Exit.KERNEL)


def ask(path: Path, command: str) -> str:
    """Return the answer to one line of commands, joined by ``;``. Raise Absent, or PortfleetError (exit 3)."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(str(path))
            connection.sendall(command.encode() + b"\n")
            found = bytearray()
            while part := connection.recv(1 << 18):
                found += part
            return found.decode(errors="replace")
    except (FileNotFoundError, ConnectionError):
        raise Absent(path) from None
    except OSError as error:
        words = "not within 5 s" if isinstance(error, TimeoutError) else error.strerror
        raise PortfleetError(f"HAProxy does not answer at {path}: {words}", hint="portfleet logs", code=Exit.KERNEL) \
            from None  # fmt: skip


@dataclass(frozen=True)
class Client:
    """Process ``number`` (from 1) by its sockets."""

    number: int
    socket: Path
    master: Path

    def there(self) -> bool:
        """Return whether a process answers."""
        try:
            self.info()
        except Absent:
            return False
        return True

    def info(self) -> dict[str, str]:
        """Return what the process says of itself."""
        lines = (line.partition(": ") for line in ask(self.socket, "show info").splitlines())
        return {key: value for key, _, value in lines}

    def process(self) -> OwnProcess:
        """Return the worker, and how many former ones its master has that still carry connections."""
        info = self.info()
        try:
            former = ask(self.master, "show proc;quit").partition("# old workers\n")[2]
        except Absent:  # between a master's end and its successor
            former = ""
        old = [line for line in former.partition("\n#")[0].splitlines() if " worker " in f" {line} "]
        return OwnProcess(int(info["Pid"]), int(info["CurrConns"]), len(old))

    @property
    def description(self) -> dict[str, str]:
        """The words of the configuration that it runs: home, rules, process."""
        words = (word.partition("=") for word in self.info().get("description", "").split())
        return {key: value for key, _, value in words}

    def read_map(self, path: Path) -> dict[str, str] | None:
        """Return a map's entries, the first of a key as HAProxy takes it; None if the process has no such map."""
        answer = ask(self.socket, f"show map {path}")
        if answer.startswith("Unknown"):
            return None
        found: dict[str, str] = {}
        for line in answer.splitlines():
            if line:
                _, key, value = line.split(" ", 2)
                found.setdefault(key, value)
        return found

    def set_map(self, path: Path, entries: Mapping[str, str]) -> None:
        """Make a map hold exactly ``entries``, if the process's configuration uses it."""
        now = self.read_map(path)
        if now is None or now == entries:
            return
        changed = {key: value for key, value in entries.items() if now.get(key) != value}
        gone = now.keys() - entries.keys()
        if len(changed) + len(gone) > _FEW:
            self._replace(path, entries)
        else:
            verbs = [f"{'set' if key in now else 'add'} map {path} {key} {value}" for key, value in changed.items()]
            self.tell([*verbs, *(f"del map {path} {key}" for key in gone)])

    def _replace(self, path: Path, entries: Mapping[str, str]) -> None:
        words = ask(self.socket, f"prepare map {path}")
        version = words.rpartition(":")[2].strip()
        if not version.isdigit():
            raise _refused(words)
        for payload in _payloads(entries):
            self.tell([f"add map @{version} {path} <<\n{payload}"])
        self.tell([f"commit map @{version} {path}"])
        if self.read_map(path) != entries:
            raise PortfleetError(f"HAProxy lost part of the map {path}", hint="portfleet apply", code=Exit.KERNEL)

    def weights(self) -> dict[str, dict[str, int]]:
        """Return {service: {server: weight}}."""
        found: dict[str, dict[str, int]] = {}
        for line in ask(self.socket, "show servers state").splitlines()[2:]:
            if words := line.split():
                found.setdefault(words[1], {})[words[3]] = int(words[7])
        return found

    def stat(self, kinds: int) -> list[dict[str, str]]:
        """Return the counters of frontends (1), backends (2) and servers (4), by HAProxy's names."""
        header, *rows = ask(self.socket, f"show stat -1 {kinds} -1").splitlines()
        names = header.removeprefix("# ").split(",")
        return [dict(zip(names, row.split(","), strict=False)) for row in rows if row]

    def open_frontends(self) -> set[str]:
        """Return the services that take connections."""
        return {row["pxname"] for row in self.stat(1) if row["status"] == "OPEN"}

    def tell(self, commands: Iterable[str]) -> None:
        """Give commands that change something; raise PortfleetError (exit 3) for the first that is refused."""
        for command in commands:
            if words := ask(self.socket, command).strip():
                raise _refused(words)

    def add_server(self, service: str, server: str, options: str) -> None:
        """Add a server at run time; it gets no connections but those that a map sends there."""
        words = ask(self.socket, f"add server {service}/{server} {options} weight 0").strip()
        if words != "New server registered.":
            raise _refused(words)
        self.tell([f"enable server {service}/{server}"])

    def reload(self, rules: str) -> None:
        """Have the master start a new worker and wait until that one runs the configuration ``rules``."""
        deadline, asked = time.monotonic() + _RELOAD, False
        while True:
            try:
                if not asked:  # a master that has just started listens later than its worker
                    ask(self.master, "reload")
                    asked = True
                if self.description.get("rules") == rules:
                    return
            except PortfleetError:  # the socket changes hands at this moment
                pass
            if time.monotonic() > deadline:
                raise PortfleetError(
                    f"HAProxy did not take its new configuration within {_RELOAD:.0f} s",
                    hint=f"portfleet logs {program_of(self.socket)}",
                    code=Exit.KERNEL,
                )
            time.sleep(0.01)


def program_of(path: Path) -> str:
    """Return the name of the program that a socket or configuration belongs to."""
    return f"portfleet-{path.stem}"


def _payloads(entries: Mapping[str, str]) -> Iterator[str]:
    part: list[str] = []
    size = 0
    for key, value in entries.items():
        line = f"{key} {value}\n"
        if size + len(line) > _PAYLOAD:
            yield "".join(part)
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield "".join(part)


def _refused(words: str) -> PortfleetError:
    first = words.splitlines()[0] if words else "an empty answer"
    return PortfleetError(f"HAProxy refused a change: {first}", hint="portfleet plan", code=Exit.KERNEL)
