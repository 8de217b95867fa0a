"""Supervisord's own config, and programs as its ini files hold them.

How supervisor 4.3 reads a value (options.py): it puts a folder in the place of every ``%(here)s``, wherever that stands
and before anything else, then expands the value as a format, ``stdout_logfile`` twice.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from portfleet.core.model import Service, parse_instance
from portfleet.core.paths import Paths
from portfleet.core.program import UMASK, Program
from portfleet.linux.machine import descriptor_limit
from portfleet.store import atomic
from portfleet.store.templating import fill

#: What every program file begins with (program.conf.j2).
_HEADER = "; Written by portfleet"
_STOP_SIGNAL = re.compile(r"^stopsignal=([A-Z0-9]+)$", re.MULTILINE)
_ENVIRONMENT = re.compile(r"^environment=(.*)$", re.MULTILINE)
_VARIABLE = re.compile(r"""(\w+)=("[^"]*"|'[^']*')""")
_PORT = re.compile(rb"""^environment=.*?\bPORTFLEET_PORT=["']([0-9]{1,5})["']""", re.MULTILINE)


def write_config(services: Collection[Service], paths: Paths) -> None:
    """Write supervisord's own config; ``minfds`` is what the largest instance needs, inherited by all of them."""
    paths.check_socket(paths.supervisor_socket)
    hard = descriptor_limit()
    most = [service.max_connections + 64 for service in services if service.max_connections]
    unlimited = any(not service.max_connections for service in services)
    text = fill(
        "supervisor/supervisord.conf.j2",
        socket=escape(str(paths.supervisor_socket)),
        programs=escape(str(paths.programs)),
        log=escape(str(paths.log)),
        pidfile=escape(str(paths.run / "supervisord.pid")),
        minfds=hard if unlimited else min(hard, max([1024, *most])),
        root=os.geteuid() == 0,
    )
    if not paths.supervisor_config.is_file() or paths.supervisor_config.read_bytes() != text.encode():
        atomic.write(paths.supervisor_config, text.encode())  # on a full disk another supervisord starts all the same


def program_text(program: Program) -> str:
    """Return the section of supervisord's config that runs ``program``."""
    return fill(
        "supervisor/program.conf.j2",
        name=program.name,
        command=escape(shlex.join((*_limits(program), *program.command))),
        directory=escape(program.directory or ""),
        user=program.user,
        environment=",".join(f"{key}={_quoted(value)}" for key, value in program.environment.items()),
        config_exit=program.config_exit,
        for_ever=program.for_ever,
        stop_seconds=program.stop_seconds,
        stop_signal=program.stop_signal if program.stop_signal != "TERM" else "",
        umask=program.umask if program.umask != UMASK else "",
        log=escape(escape(program.log)),
    )


def _limits(program: Program) -> Iterator[str]:
    """Yield the words before a command that limit it; each of these programs becomes the next one (execve(2))."""
    if program.cpus is not None:
        yield from ("taskset", "--cpu-list", program.cpus)
    if program.memory_max is not None:
        yield from ("prlimit", f"--data={program.memory_max}")


def stop_signal(text: str) -> signal.Signals:
    """Return the signal by which the program whose file holds ``text`` is told to end."""
    found = _STOP_SIGNAL.search(text)
    return signal.Signals[f"SIG{found[1]}"] if found else signal.SIGTERM


def texts(folder: Path, kind: str) -> dict[str, bytes | None]:
    """Return what is in the files NAME.``kind`` of programs, by name; None for one that cannot be read."""
    names, end = os.listdir(folder) if folder.is_dir() else [], f".{kind}"
    return {name.removesuffix(end): atomic.read(f"{folder}/{name}") for name in sorted(names) if name.endswith(end)}


def started_ports(folder: Path, there: Mapping[str, bytes | None]) -> dict[str, int]:
    """Return {instance: port} by the files of the programs that run or ran: an instance keeps the port of its start.

    ``there``: what is in the files that supervisord reads. An instance that has outlived its supervisord has another
    file, set aside.
    """
    found = {}
    for name, text in {**texts(folder, "adopted"), **there}.items():
        port = _PORT.search(text or b"")
        if port is not None and parse_instance(name) is not None:
            found[name] = int(port[1])
    return found


def started_environment(files: Iterable[Path]) -> dict[str, str]:
    """Return the environment that the first of a program's ``files`` that is there gives it; none if none is."""
    text = next((file.read_text() for file in files if file.is_file()), "")
    line = _ENVIRONMENT.search(text)
    return {name: value[1:-1] % {"here": ""} for name, value in _VARIABLE.findall(line[1])} if line else {}


def escape(value: str) -> str:
    """Return what supervisord expands to ``value``: % doubled, and no ``%(here)s`` left, which it replaces at sight.

    ``%(here).0s`` is expanded to nothing: the folder cut to length 0.
    """
    return value.replace("%", "%%").replace("%(here)s", "%%(here).0s(here)s")


def fault(path: Path) -> str:
    """Return why supervisord's ``path`` is no file of one program of ours that it can read; "" if it is.

    Its own parser is asked, as it is the one that every service depends on. Never opens what is no regular file.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return "it is no regular file"
        text = path.read_text()
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    if not text.startswith(_HEADER):
        return "it was not written by portfleet"
    from supervisor.options import ServerOptions  # a tenth of a second; only for a file that is not as it should be

    options = ServerOptions()
    options.here = str(path.parent)
    try:
        groups = options.read_config(io.StringIO(f"[supervisord]\n[include]\nfiles=\n{text}")).process_group_configs
        names = [program.name for group in groups for program in group.process_configs]
    except Exception as error:  # noqa: BLE001 (whatever its parser raises, supervisord would too)
        words = (str(error) or repr(error)).partition(" in value")[0]  # behind it comes the environment, with secrets
        return f"supervisord cannot read it ({words})".replace("\n", " ")
    return "" if names == [path.stem] else f"it is not the file of {path.stem} alone"


def _quoted(value: str) -> str:
    quote = "'" if '"' in value else '"'
    return f"{quote}{escape(value)}{quote}"
