"""Where everything lies: one home, or the system's directories."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.value import value

#: sun_path has 108 bytes with its closing zero (unix(7)).
SOCKET_PATH_MAX = 107
#: supervisord takes blanks for the end of a file name, brackets and stars for a pattern, " ;" for a comment.
_HOME = re.compile(r"[\w@+=:,./~%-]+")


@value
class Paths:
    """The files of one fleet. ``home`` is None for the system's directories."""

    config: Path
    lib: Path
    run: Path
    log: Path
    home: Path | None = None

    @property
    def journal(self) -> Path:
        return self.lib / "journal.json"

    @property
    def applied(self) -> Path:
        """A copy of the config that was applied last, for when the config is broken."""
        return self.lib / "applied.toml"

    @property
    def earlier(self) -> Path:
        """The directory of the configs that were applied before."""
        return self.lib / "earlier"

    @property
    def supervisor_config(self) -> Path:
        return self.lib / "supervisord.conf"

    @property
    def programs(self) -> Path:
        """The directory of one supervisor program file per instance."""
        return self.lib / "programs"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def watch_socket(self) -> Path:
        return self.run / "watch.sock"

    @property
    def seen_socket(self) -> Path:
        """Where the watcher answers the metrics' process, which may ask and give no order."""
        return self.run / "seen.sock"

    @property
    def table_lock(self) -> Path:
        return self.run / "table.lock"

    @property
    def watch_lock(self) -> Path:
        """Held by the watcher as long as it lives."""
        return self.run / "watch.lock"

    @property
    def watch_stacks(self) -> Path:
        """What a watcher was doing that was stuck or ended unexpectedly, for the next one to tell."""
        return self.run / "watch.stacks"

    @property
    def processes(self) -> Path:
        """The processes the watcher knows, to find them again when supervisord has lost them; not in run/, which is
        cleaned by others."""
        return self.lib / "processes.json"

    @property
    def events(self) -> Path:
        """What happened: the watcher and commands append to it."""
        return self.lib / "events.jsonl"

    @property
    def out(self) -> Path:
        """Who is ejected; owned by the watcher."""
        return self.run / "out.json"

    @property
    def retries(self) -> Path:
        """Who is in a crash loop and when each is started again; owned by the watcher."""
        return self.run / "retries.json"

    @property
    def warnings(self) -> Path:
        """Limits of the machine that are near; owned by the watcher."""
        return self.run / "warnings.json"

    def control(self, instance: str, *, user: str | None = None) -> str:
        """The control socket of an instance: run/NAME.sock, or run/USER/NAME.sock for an instance of another user.

        Only root writes to run/, so a daemon of another user makes its socket in a directory of that user's. As text,
        for a Path takes ten times as long, and there may be 2,048.
        """
        return f"{self.run}/{user}/{instance}.sock" if user else f"{self.run}/{instance}.sock"

    def operation_lock(self, service: str) -> Path:
        return self.run / f"service-{service}.lock"  # a service may be called "table"

    def relocation_lock(self, instance: str) -> Path:
        """Return the file whose lock means: connections of another box are coming to ``instance``."""
        return self.run / f"relocation-{instance}.lock"

    def log_of(self, program: str) -> Path:
        return Path(self.log_name(program))

    def log_name(self, program: str) -> str:
        """The log of a program, as text like `control`."""
        return f"{self.log}/{program}.log"

    @property
    def identity(self) -> str:
        """A short name of this home, kept in the kernel so that a second home is noticed."""
        return hashlib.sha256(str(self.lib.absolute()).encode()).hexdigest()[:16]

    def check_socket(self, path: Path) -> None:
        """Raise PortfleetError when ``path`` is too long for a unix socket."""
        if len(bytes(path)) > SOCKET_PATH_MAX:
            raise PortfleetError(
                f"socket path is {len(bytes(path))} bytes long, the kernel takes {SOCKET_PATH_MAX}: {path}",
                hint="choose a --home with a shorter path",
                code=Exit.USAGE,
            )


def resolve(*, home: str | None, config: str | None) -> Paths:
    """Return the paths for ``--home`` (or PORTFLEET_HOME's value) and ``--config``, both optional."""
    if home:
        base = Path(home).absolute()
        if not _HOME.fullmatch(str(base)):
            raise PortfleetError(
                f"supervisord cannot read from a directory of this name: {str(base)!r}",
                hint="choose a --home of letters, digits and _ - . , + = : @ ~ %",
                code=Exit.USAGE,
            )
        paths = Paths(base / "fleet.toml", base / "lib", base / "run", base / "log", home=base)
    else:
        root = Path("/")
        paths = Paths(
            root / "etc/portfleet/fleet.toml",
            root / "var/lib/portfleet",
            root / "run/portfleet",
            root / "var/log/portfleet",
        )
    if config:
        return Paths(Path(config).absolute(), paths.lib, paths.run, paths.log, home=paths.home)
    return paths
