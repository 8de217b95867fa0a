"""[service.NAME.probe]: how an instance's health is asked."""

from __future__ import annotations

from portfleet.config.kinds import Duration, Number, Raw
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core.model import Probe

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
            more="Without it only a daemon with a control socket is found to hang: the kernel accepts connections for "
            "any process that listens.",
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
