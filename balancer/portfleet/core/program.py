"""What supervisord runs for one instance, as a value, and what its files cannot hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Listen, Service, StopSignal
from portfleet.core.paths import Paths
from portfleet.core.placeholders import expand, known, placeholders
from portfleet.core.value import value

#: The watcher's name as a program of supervisord.
WATCHER = "portfleet-watch"
#: The name of the metrics' process as a program of supervisord.
METRICS = "portfleet-metrics"
#: How a daemon ends for a broken config (docs/control.md): starting it again cannot help, only another config can.
CONFIG_EXIT = 2
#: Seconds that supervisord itself waits for an instance that it was told to stop: who tells it counts the deadline. A
#: number of the config would restart every instance when it changes.
_OURS_TO_STOP = 86_400
#: Of supervisord, and of its programs that have none of their own.
UMASK = "022"
#: supervisord reads its ini files with inline comments, which no quoting escapes.
_COMMENT = re.compile(r"\s[;#]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@value
class Program:
    """One program of supervisord. ``config_exit``: after an end with CONFIG_EXIT the watcher says how it goes on.

    ``for_ever``: it is started again however often and soon it ends. ``files`` are {path: template}; ``values`` are
    what the placeholders of the templates stand for. ``environment_file`` holds more of its environment, in secret.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: str
    control: str
    stop_seconds: int
    directory: str | None = None
    user: str | None = None
    config_exit: bool = False
    for_ever: bool = False
    stop_signal: StopSignal = "TERM"
    umask: str = UMASK
    files: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    environment_file: str | None = None
    cpus: str | None = None
    memory_max: int | None = None


def make_program(
    service: Service,
    *,
    name: str,
    colour: str,
    port: int,
    release: str | None,
    command: tuple[str, ...],
    control: str,
    log: str,
    host: str = "::",
) -> Program:
    """Return the program of one local instance with every placeholder filled in.

    ``host`` is the address that it must listen on to be reached.
    """
    values = {
        "port": str(port),
        "instance": name,
        "colour": colour,
        "release": release_path(service, release),
        "control": control,
        "service": service.name,
        "host": host,
    }
    extra = service.extra_of(port)
    values |= {f"port_{word}": str(number) for word, number in extra.items()}
    own = {
        "PORTFLEET_SERVICE": service.name,
        "PORTFLEET_INSTANCE": name,
        "PORTFLEET_COLOUR": colour,
        "PORTFLEET_RELEASE": values["release"],
        "PORTFLEET_PORT": str(port),
        "PORTFLEET_CONTROL": control,
    }
    own |= {f"PORTFLEET_PORT_{word.upper()}": str(number) for word, number in extra.items()}
    if service.max_connections:
        own["PORTFLEET_MAX_CONNECTIONS"] = str(service.max_connections)
    return Program(
        name=name,
        command=tuple(expand(word, values) for word in command),
        environment=own | {key: expand(value, values) for key, value in service.environment.items()},
        log=log,
        control=control,
        stop_seconds=_OURS_TO_STOP,
        directory=expand(service.directory, values) if service.directory else None,
        user=service.user,
        config_exit=True,
        stop_signal=service.stop_signal,
        umask=service.umask,
        files={expand(path, values): expand(template, values) for path, template in service.files.items()},
        values=values,
        cpus=service.cpus,
        memory_max=service.memory_max,
        environment_file=expand(service.environment_file, values) if service.environment_file else None,
    )


def watch_program(paths: Paths, python: str) -> Program:
    """Return the watcher's program, run by the interpreter ``python``."""
    home = ("--home", str(paths.home)) if paths.home else ()
    return Program(
        name=WATCHER,
        command=(python, "-m", "portfleet", *home, "--config", str(paths.config), "watch", "--wait"),
        environment={},
        log=paths.log_name(WATCHER),
        control="",
        stop_seconds=10,
        for_ever=True,
    )


def metrics_program(paths: Paths, python: str, listen: Listen, user: str | None) -> Program:
    """Return the program that serves metrics and the page at ``listen``, run by the interpreter ``python``."""
    home = ("--home", str(paths.home)) if paths.home else ()
    return Program(
        name=METRICS,
        command=(python, "-m", "portfleet", *home, "metrics", "--serve", str(listen)),
        environment={},
        log=paths.log_name(METRICS),
        control="",
        stop_seconds=10,
        user=user,
        for_ever=True,
    )


def release_path(service: Service, release: str | None) -> str:
    if release and service.releases and not release.startswith("/"):
        return f"{service.releases.rstrip('/')}/{release}"
    return release or ""


def real_release(service: Service, release: str | None, real: Callable[[str], str]) -> str | None:
    """Return a release by its real path if it is reached by a symbolic link, which may lead elsewhere tomorrow."""
    path = release_path(service, release)
    found = real(path) if path.startswith("/") else path
    return release if found == path.rstrip("/") else found


def texts_of(service: Service, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return every text of a service's config in which placeholders may stand."""
    files = (text for pair in service.files.items() for text in pair)
    return (*command, service.directory or "", service.environment_file or "", *service.environment.values(), *files)


def refuse_unusable(service: Service, *, release: str | None, command: tuple[str, ...]) -> None:
    """Raise PortfleetError (exit 2) if no instance can be given this release and command."""
    texts = texts_of(service, command)
    words = known(service.extra_ports)
    if unknown := sorted(placeholders(texts) - set(words)):
        hint = f"known: {', '.join(f'{{{word}}}' for word in words)}"
        raise PortfleetError(f"unknown placeholder {{{unknown[0]}}}", hint=hint, code=Exit.USAGE)
    for place, trouble in troubles(service, release=release, command=command).items():
        raise PortfleetError(f"{place}: {trouble}", hint="put it into a file or a script of your own", code=Exit.USAGE)


def troubles(service: Service, *, release: str | None, command: tuple[str, ...]) -> dict[str, str]:
    """Return {place: what is wrong} of all that supervisord's files cannot hold once the placeholders are filled in.

    Places are such as ``command[2]``, ``directory``, ``environment.PATH``, and ``release`` for the release itself. A
    text that such a release stands in is not named as well. Raises KeyError for an unknown placeholder.
    """
    port = service.port_of("blue", 1)
    made = make_program(
        service, name=f"{service.name}-blue-1", colour="blue", port=port, release=release, command=command, control="",
        log="",
    )  # fmt: skip
    raw = {f"command[{number}]": text for number, text in enumerate(command)} | {"directory": service.directory or ""}
    raw |= {f"environment.{name}": text for name, text in service.environment.items()}
    found = {f"command[{number}]": unwritable(word) for number, word in enumerate(made.command)}
    found["directory"] = unwritable(made.directory or "")
    found |= {f"environment.{key}": unwritable(text) or unquotable(text) for key, text in made.environment.items()}
    if words := found["environment.PORTFLEET_RELEASE"]:
        return {"release": words} | {
            p: bad for p, bad in found.items() if bad and "{release}" not in raw.get(p, "{release}")
        }
    return {place: words for place, words in found.items() if words}


def unwritable(value: str) -> str | None:
    """Return why supervisord's ini syntax cannot hold ``value``; None if it can."""
    if _CONTROL.search(value):
        return "holds a control character; supervisord cannot pass it"
    if _COMMENT.search(value):
        return 'supervisord would take what follows " ;" or " #" for a comment'
    return None


def unquotable(value: str) -> str | None:
    """Return why no value of supervisord's ``environment`` can be ``value``; None if one can.

    supervisor/datatypes.py strips every quote from both ends of a value and knows no escapes.
    """
    if {"'", '"'} <= set(value) or value.strip("'\"") != value:
        return "supervisord cannot hold a value with both kinds of quotes, or with a quote at its start or end"
    return None
