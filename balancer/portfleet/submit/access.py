"""What `deny` and `undeny` share: the journal first, then the rules.

They wait for no operation and leave nothing in the history: a ban cannot wait for a drain, and those of a night would
push everything else out of it. The denial itself says who and why.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from portfleet.apply.context import Context
from portfleet.core.changes import Change, SetAccess, SetService
from portfleet.core.desired import DesiredService
from portfleet.core.errors import Exit
from portfleet.core.journal import Journal
from portfleet.core.records import Denied, ServiceRecord
from portfleet.store import locks
from portfleet.store.clock import stamp
from portfleet.store.events import record
from portfleet.submit.follow import say
from portfleet.submit.targets import record_of


def denied(context: Context, service: str) -> Mapping[str, Denied]:
    """Return the operators' denials that have not ended, by network."""
    return _lasting(record_of(context, service))


def change_denied(
    context: Context,
    want: DesiredService,
    network: str,
    *,
    denial: Denied | None,
    entry: Mapping[str, Any],
    words: str,
) -> Exit:
    """Deny ``network``, or with None deny it no longer; those that have ended are forgotten. Raise PortfleetError."""
    first = record_of(context, want.name)

    def changed(journal: Journal) -> Journal:
        record = journal.services.get(want.name, first)
        kept = {net: one for net, one in _lasting(record).items() if net != network}
        return journal.with_service(want.name, replace(record, denied=kept | ({network: denial} if denial else {})))

    context.store.update(changed)
    _bring_up(context, want.name)
    about = {"service": want.name, "network": network}
    if denial is None:
        record(context.paths.events, "undenied", **about)
    else:
        until = stamp(denial.until) if denial.until else None
        record(context.paths.events, "denied", **about, until=until, reason=denial.why or None)
    return say(context, {"service": want.name, "network": network, "ok": True, **entry}, words)


def _lasting(record: ServiceRecord) -> dict[str, Denied]:
    now = time.time()
    return {network: one for network, one in record.denied.items() if one.until is None or one.until > now}


def _bring_up(context: Context, service: str) -> None:
    with locks.table(context.paths.table_lock):
        want = context.desired(context.applied_fleet).services[service]  # after whoever held the lock before
        state = context.plane.observe()
        if service not in state.services:
            return  # it is not up: the journal is what counts when it is
        changes: list[Change] = [SetService(want.rule)] if state.services[service] != want.rule else []
        access = want.access(time.time())
        if want.rule.filters:
            changes.append(SetAccess(service, access))
        if changes:
            context.plane.run(tuple(changes))
