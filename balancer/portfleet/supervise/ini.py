"""Programs as supervisord's ini files hold them.

How supervisor 4.3 reads a value (options.py): it puts a folder in the place of every ``%(here)s``, wherever that stands
and before anything else, then expands the value as a format, ``stdout_logfile`` twice.
"""

from __future__ import annotations

import io
import shlex
import stat
from pathlib import Path

from portfleet.core.program import Program
from portfleet.store.templating import fill

#: What every program file begins with (program.conf.j2).
_HEADER = "; Written by portfleet"


def program_text(program: Program) -> str:
    """Return the section of supervisord's config that runs ``program``."""
    return fill(
        "supervisor/program.conf.j2",
        name=program.name,
        command=escape(shlex.join(program.command)),
        directory=escape(program.directory or ""),
        user=program.user,
        environment=",".join(f"{key}={_quoted(value)}" for key, value in program.environment.items()),
        config_exit=program.config_exit,
        for_ever=program.for_ever,
        stop_seconds=program.stop_seconds,
        log=escape(escape(program.log)),
    )


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
        return f"supervisord cannot read it ({str(error) or repr(error)})".replace("\n", " ")
    return "" if names == [path.stem] else f"it is not the file of {path.stem} alone"


def _quoted(value: str) -> str:
    quote = "'" if '"' in value else '"'
    return f"{quote}{escape(value)}{quote}"
