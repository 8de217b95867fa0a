"""Descriptors and queues: what bounds the number of connections and how fast they may come."""

from __future__ import annotations

import configparser
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.needs import OWN_DESCRIPTORS, Needs
from portfleet.core.paths import Paths
from portfleet.doctor.finding import Finding, broken, fine, setting, warning
from portfleet.linux.machine import sysctl
from portfleet.linux.processes import descriptor_limits
from portfleet.supervise.presence import supervisor_pid

#: What portfleet-daemon asks listen(2) for; the kernel cuts it to somaxconn.
BACKLOG = 4096


@dataclass(frozen=True)
class LimitFacts:
    """``hard`` is the limit of descriptors that instances inherit: supervisord's if it runs, otherwise ours.

    ``minfds`` is what supervisord's config asks for (None: not written yet); ``file_max`` bounds the whole machine.
    """

    hard: int
    of_supervisor: bool
    minfds: int | None
    file_max: int
    somaxconn: int
    syn_backlog: int


def read(paths: Paths) -> LimitFacts:
    """Read the facts of this machine and, if it runs, of supervisord."""
    pid = supervisor_pid(paths)
    hard = _hard_limit(pid) if pid else None
    return LimitFacts(
        hard=hard or resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        of_supervisor=hard is not None,
        minfds=_minfds(paths.supervisor_config),
        file_max=int(sysctl("fs.file-max", "0")),
        somaxconn=int(sysctl("net.core.somaxconn", "0")),
        syn_backlog=int(sysctl("net.ipv4.tcp_max_syn_backlog", "0")),
    )


def judge(facts: LimitFacts, needs: Needs) -> Iterator[Finding]:
    """Judge the limits against what the fleet needs."""
    yield _descriptors(facts, needs)
    if facts.minfds is not None and facts.minfds > facts.hard:
        yield broken(
            "minfds",
            f"supervisord's config asks for {facts.minfds:,} descriptors, the hard limit is {facts.hard:,}",
            why="supervisord will refuse to start",
            mend="portfleet up (writes it anew), or raise LimitNOFILE in portfleet.service",
        )
    if needs.stated and facts.file_max < 2 * needs.connections:
        yield broken(
            "fs.file-max",
            f"{facts.file_max:,} open files for the whole machine, the fleet's peak is {needs.connections:,}",
            why="accept fails for every process of the machine when they are used up",
            mend=setting("fs.file-max", 2 * needs.connections + 100_000),
        )
    yield _queue(
        "net.core.somaxconn",
        facts.somaxconn,
        why="it cuts the accept queue: when all clients reconnect at once, the rest wait a second or more",
    )
    yield _queue(
        "net.ipv4.tcp_max_syn_backlog",
        facts.syn_backlog,
        why="above it SYNs are dropped or answered by cookies, which lose TCP options",
    )


def _descriptors(facts: LimitFacts, needs: Needs) -> Finding:
    whose = "supervisord's instances" if facts.of_supervisor else "instances"
    what = f"{whose} may have {facts.hard:,} descriptors each"
    if needs.most + OWN_DESCRIPTORS > facts.hard:
        return broken(
            "descriptors",
            f"{what}, max_connections = {needs.most:,} needs {needs.most + OWN_DESCRIPTORS:,}",
            why="connections above the limit wait unanswered in the accept queue",
            mend="raise LimitNOFILE in portfleet.service (systemctl edit portfleet), or lower max_connections",
        )
    return fine("descriptors", what)


def _queue(name: str, value: int, *, why: str) -> Finding:
    if value >= BACKLOG:
        return fine(name, f"{value:,}")
    return warning(
        name, f"{value:,} is less than the {BACKLOG:,} that daemons ask for", why=why, mend=setting(name, BACKLOG)
    )


def _hard_limit(pid: int) -> int | None:
    try:
        return descriptor_limits(pid)[1]
    except OSError:
        return None


def _minfds(config: Path) -> int | None:
    parser = configparser.RawConfigParser(strict=False, inline_comment_prefixes=(";",))
    try:
        parser.read_string(config.read_text())
    except (OSError, configparser.Error):
        return None
    return parser.getint("supervisord", "minfds", fallback=None)
