"""What of [service.NAME] is about an instance's process: how it ends, and what it has beside its port."""

from __future__ import annotations

from typing import get_args

from portfleet.config.containers import ExtraPorts, Templates
from portfleet.config.kinds import Choice, Duration, Parsed, Text
from portfleet.config.reader import parse_cpus, parse_size, parse_umask
from portfleet.config.settings.table import Effect, Setting
from portfleet.core.model import LiveSignal, StopSignal

_UMASK = Parsed(parse_umask, pattern="0?[0-7]{3}", says="three octal digits", hint='write "022", "027" or "077"')

PROCESS = (
    Setting(
        "stop_signal",
        Choice(get_args(StopSignal)),
        "the signal that ends an instance",
        Effect.RESTART,
        '"QUIT"',
        more="Every process of the instance gets it, so that workers end as their parent does: nginx and php-fpm "
        'finish their requests at "QUIT". An instance ends by the signal that it was started with.',
    ),
    Setting(
        "stop_timeout",
        Duration(),
        "how long an instance may take to end, until it gets SIGKILL",
        Effect.AT_ONCE,
        '"1m"',
        more="It counts from the stop signal, for instances without connections and for `portfleet down`; where "
        "connections may finish first, from the deadline of their drain. A daemon that saves its data at its end "
        "needs as long as that takes. At half of it SIGTERM is sent once more, which ends the draining of a "
        "daemon of ours; with another `stop_signal` nothing is.",
    ),
    Setting(
        "reload_signal",
        Choice(get_args(LiveSignal)),
        "what `portfleet signal SERVICE` sends if it is given no signal",
        Effect.AT_ONCE,
        '"HUP"',
        unset="none; `portfleet signal` has to be told",
    ),
    Setting(
        "umask",
        _UMASK,
        "the umask of instances, octal: what they take away from the rights of files that they make",
        Effect.RESTART,
        '"027"',
    ),
    Setting(
        "cpus",
        Parsed(
            parse_cpus,
            pattern="[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*",
            says="numbers and ranges, with commas between",
            hint='write "2", "0-3" or "0-3,8"',
        ),
        "the processors that instances may use",
        Effect.RESTART,
        '"0-3"',
        more="By taskset(1). All instances of the service share them.",
        unset="all of them",
    ),
    Setting(
        "memory_max",
        Parsed(parse_size, pattern="[1-9][0-9]{0,5}[MG]", says='"512M" or "2G"', hint='write "512M" or "2G"'),
        "the data that each process of an instance may have: more is refused to it",
        Effect.RESTART,
        '"512M"',
        more="By prlimit(1), RLIMIT_DATA: heap and private mappings, stacks of threads included, and no shared memory "
        "or files. It needs no right and no cgroup, and holds for a process, not for the sum of a tree; for the whole "
        "fleet there is MemoryMax= in the unit.",
        unset="no limit of its own",
    ),
    Setting(
        "extra_ports",
        ExtraPorts(),
        "other ports that an instance listens on, by name; filled in as {port_NAME}",
        Effect.RESTART,
        "{ metrics = 9100 }",
        more="The number is that of the first of `ports`; the second has the next, and so on, so that as many are "
        "taken as `ports` has. An instance finds its own in PORTFLEET_PORT_NAME too. They are neither balanced nor "
        "guarded: who may reach them is up to the daemon and a firewall. They must not overlap any other ports.",
        unset="none",
    ),
    Setting(
        "environment_file",
        Text(),
        "a file of NAME=value lines, for secrets: environment variables that stand in no config, plan or journal",
        Effect.RESTART,
        '"/etc/portfleet/echo.env"',
        more="A relative name is looked for beside fleet.toml; {release} and its like are filled in. Lines that begin "
        "with # are left out, quotes around a value too. It must belong to root, or to whoever runs the fleet, and be "
        "readable for no other user (0600). Its variables come before those of `environment`.",
        change="a value that has changed counts as a change too",
        unset="none",
    ),
    Setting(
        "files",
        Templates(),
        "files that an instance reads, each made of a template before it starts; the placeholders are filled in",
        Effect.RESTART,
        '{ "/run/portfleet/{instance}.conf" = "mosquitto.conf.in" }',
        more="A template lies beside fleet.toml, elsewhere by an absolute path, or in a release as "
        '"{release}/nginx.conf.in". {{word}} stays as {word}. The file belongs to the instance\'s user (0600), no '
        "other user may have the right to write to its directory or one above it, and directories that are missing are "
        "made. It goes with the instance. `portfleet restart` takes the template as it is.",
        change="a template that has changed counts as a change too",
        unset="none",
    ),
)
