"""The command line and the environment, as one value."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from portfleet_daemon import __version__
from portfleet_daemon.errors import EXIT_CONFIG, EXIT_PORT, EXIT_STOPPED, ConfigError
from portfleet_daemon.framing import FRAMINGS

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_SOCKET_PATH = 107  # bytes of sun_path without its final zero, unix(7)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All a daemon is told; durations in seconds, None for off."""

    port: int
    handler: str
    framing: str
    control: str | None
    hosts: tuple[str, ...]  #: empty: every local address of both families
    backlog: int
    max_request: int
    max_connections: int | None  #: None: the limit of descriptors less 64
    request_timeout: float | None
    idle_timeout: float | None
    drain_rate: float | None
    drain_deadline: float | None
    workers: int
    proxy_protocol: bool
    instance: str
    release: str


def duration(text: str) -> float | None:
    """Return the seconds of `500ms`, `30s`, `10m`, `1h`; None for `off`. Raise ArgumentTypeError."""
    if text == "off":
        return None
    match = DURATION.fullmatch(text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 500ms, 30s, 10m, 1h or off")
    return float(match[1]) * SECONDS[match[2]]


def _between(low: int, high: int, what: str) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what} of {low} to {high}")
        return int(text)

    return number


_connections = _between(1, 1 << 24, "number")


def _rate(text: str) -> float | None:
    if text == "off":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of connections per second, nor off")
    return rate


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; docs/daemon.md lists the same flags, and a test compares them."""
    parser = argparse.ArgumentParser(
        prog="portfleet-daemon",
        description="Serve one TCP port with one thread and one epoll set: requests in, replies out.",
        epilog=f"Exit codes: {EXIT_STOPPED} stopped cleanly; {EXIT_CONFIG} usage, handler or framing wrong; "
        f"{EXIT_PORT} the port or the control socket cannot be had; any other is a crash. "
        "Durations are written 500ms, 30s, 10m, 1h; off is none. "
        "PORTFLEET_CONTROL, PORTFLEET_MAX_CONNECTIONS, PORTFLEET_INSTANCE, PORTFLEET_SERVICE, PORTFLEET_COLOUR and "
        "PORTFLEET_RELEASE are read from the environment.",
    )
    add = parser.add_argument
    add("--port", required=True, type=_between(0, 65535, "port"), metavar="N", help="port to listen on; 0: any free")
    add("--handler", required=True, metavar="MODULE:ATTR", help="function or class that answers requests")
    names = "|".join(FRAMINGS)
    add("--framing", default="line", metavar="NAME", help=f"{names}|module:Class (default: %(default)s)")
    add("--control", metavar="PATH", help="control socket (default: $PORTFLEET_CONTROL; none without it)")
    add("--host", action="append", default=[], metavar="ADDRESS", help="address to listen on, may be repeated "
        "(default: every local address, IPv4 and IPv6)")  # fmt: skip
    add("--backlog", default=4096, type=_between(1, 1 << 20, "backlog"), metavar="N",
        help="connections the kernel queues (default: %(default)s, at most net.core.somaxconn)")  # fmt: skip
    add("--max-request", default=65536, type=_between(16, 1 << 30, "size"), metavar="BYTES",
        help="largest request, delimiter and prefix included (default: %(default)s)")  # fmt: skip
    add("--max-connections", type=_connections, metavar="N", help="more wait in the backlog (default: "
        "$PORTFLEET_MAX_CONNECTIONS; without it the hard limit of descriptors less 64)")  # fmt: skip
    add("--request-timeout", default="30s", type=duration, metavar="DUR",
        help="from a request's first byte to its last (default: %(default)s)")  # fmt: skip
    add("--idle-timeout", default="off", type=duration, metavar="DUR",
        help="close a connection without traffic for this long (default: %(default)s)")  # fmt: skip
    add("--drain-rate", default="off", type=_rate, metavar="N",
        help="connections closed per second after SIGTERM; off: let them finish (default: %(default)s)")  # fmt: skip
    add("--drain-deadline", default="30s", type=duration, metavar="DUR",
        help="after SIGTERM, close what is left then (default: %(default)s)")  # fmt: skip
    add("--proxy-protocol", action="store_true", help="each connection begins with a header of PROXY protocol "
        "version 2 that names the client (HAProxy's send-proxy-v2); without one it is closed")  # fmt: skip
    add("--workers", default=0, type=_between(0, 256, "number"), metavar="N",
        help="processes that run a blocking handler; 0: it runs in the loop (default: %(default)s)")  # fmt: skip
    add("--version", action="version", version=f"portfleet-daemon {__version__}")
    return parser


def read_settings(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings; raise SystemExit 2 on wrong usage, ConfigError on wrong values."""
    given = make_parser().parse_args(argv)
    control = given.control or environ.get("PORTFLEET_CONTROL") or None
    if control and len(os.fsencode(control)) > LONGEST_SOCKET_PATH:
        raise ConfigError(
            f"control socket {control}: {len(os.fsencode(control))} bytes, a unix socket's path has at most "
            f"{LONGEST_SOCKET_PATH}",
            hint="use a shorter path",
        )
    return Settings(
        port=given.port,
        handler=given.handler,
        framing=given.framing,
        control=control,
        hosts=tuple(given.host),
        backlog=given.backlog,
        max_request=given.max_request,
        max_connections=given.max_connections or _from_environment(environ.get("PORTFLEET_MAX_CONNECTIONS")),
        request_timeout=given.request_timeout,
        idle_timeout=given.idle_timeout,
        drain_rate=given.drain_rate,
        drain_deadline=given.drain_deadline,
        workers=given.workers,
        proxy_protocol=given.proxy_protocol,
        instance=environ.get("PORTFLEET_INSTANCE") or "-",
        release=environ.get("PORTFLEET_RELEASE") or "-",
    )


def _from_environment(text: str | None) -> int | None:
    if not text:
        return None
    try:
        return _connections(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"PORTFLEET_MAX_CONNECTIONS: {error}", hint="unset it, or use --max-connections N") from None
