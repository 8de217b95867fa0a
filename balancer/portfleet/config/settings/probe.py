"""[service.NAME.probe]: how an instance's health is asked."""

from __future__ import annotations

from portfleet.config.containers import Words
from portfleet.config.kinds import Duration, Number, Parsed, Raw
from portfleet.config.reader import parse_path
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.policies import Probe

PROBE = Table(
    "service.NAME.probe",
    Probe,
    "probes; left out: the control socket and an empty request, otherwise a connect",
    (
        Setting(
            "send",
            Raw(),
            "what is sent through the instance's port",
            Effect.AT_ONCE,
            r'"PING\n"',
            more="Without it, `http` or `exec` only a daemon with a control socket is found to hang: the kernel "
            "accepts connections for any process that listens.",
            unset="a daemon with a control socket is asked there and by an empty request; others only get a connect",
        ),
        Setting(
            "expect",
            Raw(),
            "what the answer must hold",
            Effect.AT_ONCE,
            '"PONG"',
            more="Needs `send`.",
            unset="an answer is not waited for",
        ),
        Setting(
            "http",
            Parsed(parse_path, pattern="/[!-~]*", says="a path that begins with /", hint='write "/" or "/healthz"'),
            "a path that is asked for by HTTP (GET), through the instance's port",
            Effect.AT_ONCE,
            '"/healthz"',
            unset="HTTP is not spoken",
        ),
        Setting(
            "exec",
            Words(),
            "a command that is run, as the service's user, with its placeholders and environment",
            Effect.AT_ONCE,
            '["redis-cli", "-p", "{port}", "ping"]',
            more="What is left of it after `timeout` is killed, its process group included; four run at a time. "
            'A shell is needed for a pipe: `["sh", "-c", "…"]`. Variables of `environment_file` are those that the '
            "instance was started with. Instances of `remote` get a connect instead.",
            unset="no command is run",
        ),
        Setting(
            "status",
            Number(0, 599),
            "the status that `http` or `exec` has to end with",
            Effect.AT_ONCE,
            "204",
            unset="200 to 399 for `http`, 0 for `exec`",
        ),
        Setting("interval", Duration(), "from one probe to the next", Effect.AT_ONCE, '"5s"'),
        Setting("timeout", Duration(), "how long a probe may take", Effect.AT_ONCE, '"2s"'),
        Setting("fall", Number(1, 100), "failures until an instance is ejected", Effect.AT_ONCE, "5"),
        Setting("rise", Number(1, 100), "successes until it is back", Effect.AT_ONCE, "3"),
        Setting(
            "restart_after",
            Duration(off=True),
            'restart an instance that has hung for so long; "off" or a duration',
            Effect.AT_ONCE,
            '"1m"',
            more="It gets SIGKILL, and its connections end.",
        ),
    ),
)
