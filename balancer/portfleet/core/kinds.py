"""The kinds of events: the one table that the log, the file of events, `portfleet events` and the reference go by."""

from __future__ import annotations

from typing import Literal, NamedTuple

#: "debug" is for who reads the log, and no event.
Level = Literal["debug", "info", "warning", "error"]


class Kind(NamedTuple):
    """How grave an event is, its sentence, and what the reference says of it.

    In a sentence stand {field} for a field and {field:noun|verb} for one that counts (`printable.quantity`).
    """

    level: Level
    words: str
    meaning: str


_INSTANCES = {
    "ejected": Kind(
        "warning",
        "{instance} gets no new connections: {reason}",
        "an instance died or failed its probes; `took_ms`: until new connections went elsewhere",
    ),
    "serving": Kind(
        "info",
        "{instance} serves with {slots:slot}: {reason}",
        "an instance takes new connections, for the first time or again; `away`: how long it was out",
    ),
    "ready": Kind(
        "info", "{instance} takes new connections: {reason}", "a command or an operation found a new one ready"
    ),
    "process-ended": Kind(
        "warning", "the process of {instance} ended: {reason}", "a process ended that had no slots at that moment"
    ),
    "desired-state": Kind(
        "info",
        "{instance} is to be {wanted}; it was to be {before}",
        "an operator, an operation or the config asks something else of it: `serving`, `idle`, `drained`, "
        "`maintenance`, `stopped`",
    ),
    "kept": Kind(
        "error",
        "{instance} fails its probes and keeps its slots: {reason}",
        "its probes fail, but no other instance of the service serves",
    ),
    "recovered": Kind("info", "{instance} {reason}", "an instance that was kept answers its probes again"),
    "cannot-serve": Kind("warning", "{instance} cannot serve: {reason}", "it runs, but clients could not reach it"),
    "not-ready": Kind(
        "warning", "{instance} runs and is not ready: {reason}", "one that came back is not let in after 10 seconds"
    ),
    "given-up": Kind(
        "error",
        "{instance} does not stay up ({reason}); started again in {again_in}",
        "a crash loop, with how the process ended last and its last lines",
    ),
    "starting": Kind("info", "{instance} is started: {reason}", "the watcher has a process started"),
    "cannot-start": Kind("error", "{instance} cannot be started: {reason}", "supervisord or the system refused"),
    "taken-back": Kind("info", "{instance} is ended: {reason}", "an operation or a verb stopped it at that moment"),
    "stays-down": Kind("error", "{instance} is not started again: {reason}", "its own config is broken"),
    "restarting": Kind("warning", "{instance} is ended and started again: {reason}", "it hung for `restart_after`"),
    "dropped": Kind(
        "warning",
        "new connections of {instance} are dropped: {reason}",
        "a serving instance lives without its listener; clients' next SYN goes elsewhere as soon as it is out",
    ),
    "port-shared": Kind(
        "error", "{instance} shares its port: {reason}", "another process listens on its port and gets its clients"
    ),
    "in-background": Kind(
        "error", "{instance} has left supervisord: {reason}", "a daemon put itself into the background"
    ),
    "ending-remains": Kind(
        "warning", "processes {pids} of {instance} are ended: {reason}", "an earlier start left processes behind"
    ),
    "forgot-unanswered": Kind(
        "info",
        "forgot {count:unanswered attempt} to connect to {instance}: {reason}",
        "connections were begun with an instance that is out",
    ),
    "adopted": Kind("info", "{instance} goes on as process {pid}: {reason}", "its supervisord has ended"),
    "killed": Kind("warning", "{instance} was killed: {reason}", "it was drained with `--then kill`"),
    "cannot-eject": Kind("error", "{instance} cannot be ejected: {reason}", "the data plane refused; tried again"),
    "cannot-admit": Kind("error", "{instance} cannot be admitted: {reason}", "the data plane refused; tried again"),
    "cannot-point": Kind("error", "slots of {service} cannot be pointed: {reason}", "tried again until they are"),
    "cannot-evict": Kind("error", "connections of {instance} cannot be closed: {reason}", "tried again"),
    "blind": Kind("error", "probes prove nothing: {reason}", "no instance is ejected by its probes meanwhile"),
    "probes-count": Kind("info", "probes count again: {reason}", "after `blind`"),
}

_OPERATIONS = {
    "operation-begun": Kind(
        "info", "{verb} of {service} has begun (operation {operation}, by {operator})", "the watcher works on it"
    ),
    "rolls-back": Kind(
        "error",
        "{service} goes back to {to}: {reason}",
        "a release that a cutover made live ends soon after every start; the old colour is still kept",
    ),
    "operation-resumed": Kind(
        "info", "{verb} of {service} goes on at {phase} (operation {operation})", "after the watcher was away"
    ),
    "operation-phase": Kind("info", "{verb} of {service}: {phase} (operation {operation})", "a step of an operation"),
    "operation-ended": Kind(
        "info", "{verb} of {service}: {outcome} (operation {operation})", "an operation did what was asked"
    ),
    "operation-failed": Kind(
        "error", "{verb} of {service} failed: {outcome} (operation {operation})", "failed, cancelled or timed out"
    ),
    "tries-again": Kind(
        "warning", "operation {operation} tries again: {reason}", "supervisord or the data plane refused"
    ),
    "waits-for-lock": Kind("warning", "operation {operation} waits: {reason}", "another process holds a lock"),
    "cannot-undo": Kind("error", "operation {operation} cannot be undone yet: {reason}", "tried again"),
    "cannot-write-journal": Kind("error", "the end of operation {operation} cannot be noted: {reason}", "tried again"),
    "no-handoff": Kind("warning", "{service} goes on without hand-off: {reason}", "the new release cannot take over"),
    "deadline": Kind(
        "warning",
        "{service} has {left:connection} left at the drain's deadline; then: {then}",
        "a drain took longer than its deadline",
    ),
    "kept-longer": Kind("info", "{colour} of {service} is kept longer: {reason}", "an idle colour has connections"),
    "stopped-idle-colour": Kind("info", "{colour} of {service} is stopped: {reason}", "an idle colour's time was up"),
}

_COMMANDS = {
    "apply-begun": Kind("info", "{operator} has begun {verb}: {changes:step}", "`apply` or `up` changes something"),
    "applied": Kind("info", "{verb} by {operator}: {serving:instance|serves}", "the fleet is as the config asks"),
    "apply-failed": Kind("error", "{verb} by {operator} is incomplete: {reason}", "refused, or not ready in time"),
    "down-begun": Kind(
        "warning", "{operator} takes {what} down; {connections:established connection|ends}", "`down` has begun"
    ),
    "down": Kind("info", "{what} is down by {operator}", "`down` has ended"),
    "pinned": Kind("info", "{service}, by {operator}: {outcome}", "`pin` or `unpin`; `operation` as in the history"),
    "denied": Kind("info", "{operator}: {service} refuses {network}", "`deny`; `until` is null for good"),
    "undenied": Kind("info", "{operator}: {service} refuses {network} no longer", "`undeny`"),
    "page-login": Kind("info", "{operator} has logged in", "the page's token was given"),
    "page-refused": Kind(
        "warning", "{operator} is refused: {reason}", "a wrong token on the page; of each network told once a minute"
    ),
    "page-token": Kind("error", "the page takes no order: {reason}", "the file of `[page] token_file` is refused"),
    "page-order": Kind("info", "{operator}: {order}", "a plan was confirmed on the page; what it does follows"),
    "page-order-failed": Kind("warning", "{operator}: {order} failed: {reason}", "nothing, or not all of it, was done"),
    "cancel-asked": Kind(
        "info", "{operator} cancels operation {operation} on {service}", "its end tells what came of it"
    ),
}

_RULES = {
    "table-deleted": Kind("warning", "the rules were removed by {by} (pid {pid})", "another process did it"),
    "healed": Kind("warning", "the {lost} was put back: {did}", "rules that others had changed or removed"),
    "drift": Kind("warning", "the rules differ and are left so; repair would: {would}", 'with `drift = "report"`'),
    "cannot-heal": Kind("error", "the rules cannot be repaired: {reason}", "tried again"),
    "connections-restored": Kind(
        "warning", "{restored:connection|was} given back to the data plane", "others had flushed their tracking"
    ),
    "cannot-restore": Kind("error", "connections cannot be given back to the data plane: {reason}", "tried again"),
    "not-full": Kind(
        "info", "an instance was taken for full with {established:connection}: {reason}", "its count was put right"
    ),
    "no-guardian": Kind("error", "clients are not held while rules are missing: {reason}", "tried again"),
    "guardian": Kind("info", "{reason}", "after `no-guardian`"),
    "guardian-left": Kind("warning", "the guardian was not removed: {reason}", "as the watcher ended"),
}

_WATCHER = {
    "started": Kind("info", "the watcher has started as process {pid}", "it adopts what runs"),
    "watching": Kind("debug", "{instances:instance|is} watched", "config and journal were read, or read again"),
    "waiting": Kind("info", "the watcher waits: {reason}", "another watcher works"),
    "stopped": Kind("info", "the watcher has ended: {reason}", "it was told to"),
    "replaced": Kind("warning", "the watcher ends: {reason}", "another one has taken its lock"),
    "task-ended": Kind("error", "the watcher ends: its part {task} has ended ({error})", "supervisord starts another"),
    "watcher-ended": Kind("error", "{reason}", "told by the next watcher, with the stacks"),
    "unprivileged": Kind("warning", "{refused} was refused: {costs}", "what this machine refused the watcher"),
    "made-anew": Kind("warning", "{files} was made anew: {reason}", "files of run/ had been removed"),
    "data-plane-died": Kind("error", "{program} (pid {pid}) has ended: {reason}", "a process of the data plane itself"),
    "metrics-died": Kind("warning", "{program} (pid {pid}) has ended: {reason}", "the process of the metrics"),
    "supervisord-died": Kind("error", "supervisord has ended: {reason}", "another one is started"),
    "supervisord-back": Kind("info", "supervisord is back: {reason}", "after `supervisord-died`"),
    "supervisord-ended": Kind("info", "supervisord has ended: {reason}", "after `portfleet down`"),
    "supervisord-answers": Kind("info", "supervisord (pid {pid}) answers again", "it had hung"),
    "cannot-start-supervisord": Kind("error", "supervisord cannot be started: {reason}", "tried again"),
    "put-right": Kind("warning", "{reason}", "a damaged file of supervisord's was repaired"),
    "warning": Kind("warning", "{reason}", "a limit is near; `hint` is the command that raises it"),
    "warning-over": Kind("info", "no longer near its limit: {about}", "after `warning`"),
    "cannot-look": Kind("error", "{at}: {reason}", "something could not be read; tried again"),
    "cannot-write": Kind("error", "{file} cannot be written: {reason}", "a full disk, say; tried again"),
    "event-command-failed": Kind("warning", "{command}: {reason}", "the command of `on_event`; it is not given to it"),
    "event-command-works": Kind("info", "{command} works again", "after `event-command-failed`"),
    "events-missed": Kind(
        "warning", "{count:event} found no room before the command", "the command of `on_event` did not get them"
    ),
    "events-lost": Kind("warning", "{count:event} could not be kept", "more came than the disk took"),
    "unexpected-error": Kind(
        "error", "unexpected error about {at}: {error}", "a defect, with its traceback; it cost what is `at`"
    ),
}

KINDS: dict[str, Kind] = _INSTANCES | _OPERATIONS | _COMMANDS | _RULES | _WATCHER
