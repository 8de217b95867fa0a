"""Programs as supervisord's ini files hold them."""

from __future__ import annotations

import shlex

from portfleet.core.program import Program
from portfleet.store.templating import fill


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
        log=escape(program.log),
    )


def escape(value: str) -> str:
    """Double every % (supervisord expands ``%(name)s`` in its values)."""
    return value.replace("%", "%%")


def _quoted(value: str) -> str:
    quote = "'" if '"' in value else '"'
    return f"{quote}{escape(value)}{quote}"
