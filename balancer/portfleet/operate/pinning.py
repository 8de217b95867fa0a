"""What `pin` and `unpin` share: the journal first, then the kernel, both under the operation lock."""

from __future__ import annotations

from collections.abc import Callable

from portfleet import journal_file, locks
from portfleet.context import Context
from portfleet.execute import Executor
from portfleet.journal import Journal, ServiceRecord
from portfleet.kernel.changes import SetService


def change_pins(context: Context, service: str, *, why: str, change: Callable[[ServiceRecord], ServiceRecord]) -> None:
    """Change a service's record and bring its rules and elements up to that; raises PortfleetError."""
    with locks.operation(context.paths.operation_lock(service), service=service, why=why):
        whole = context.desired(context.applied_fleet).journal

        def changed(journal: Journal) -> Journal:
            return journal.with_service(service, change(journal.services.get(service, whole.services[service])))

        journal_file.update(context.paths.journal, changed)
        desired = context.desired(context.applied_fleet)
        want = desired.services[service]
        executor = Executor(desired, context.kernel, context.supervisor, context.paths, say=lambda _: None)
        with locks.table(context.paths.table_lock):
            state = context.kernel.observe()
            if state.services.get(service) != want.rule and state.home:
                context.kernel.run((SetService(want.rule),))
        if state.home:
            executor.point(service, frozenset())
