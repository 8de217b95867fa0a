"""nftables as the data plane, through libnftables in this process: text in, JSON out.

One transaction is one batch on one netlink socket: the kernel takes all of it or nothing, and packets see the state
before or the state after. What we set is remembered beside what nft prints for it (``run/rules.json``), so that a
later difference is somebody's hand edit; without that file rules are simply set again.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from portfleet import atomic
from portfleet.errors import Exit, PortfleetError
from portfleet.kernel import changes as c
from portfleet.kernel import nft_listing as listing
from portfleet.model import Affinity, Listen

TABLE = "inet portfleet"
_MAPS = ("services4", "services6", "local4", "local6")
_FIXED = frozenset({"prerouting", "output", "guard", "admit"})
#: Larger scripts are refused by an nft_ctx of a machine short of memory only; this is for people: how much is shown.
_SHOWN_LINES = 40


class NftKernel:
    """The real data plane (see ``Kernel``). ``memory`` is the file that remembers what was set."""

    def __init__(self, memory: Path) -> None:
        try:
            import nftables
        except ImportError as error:
            raise PortfleetError(f"cannot import nftables: {error}", hint="pip install pip-nftables") from None
        try:
            self._nft = nftables.Nftables()
        except OSError as error:
            raise PortfleetError(
                f"cannot load libnftables: {error}", hint="apt-get install libnftables1", code=Exit.KERNEL
            ) from None
        self._nft.set_json_output(True)
        self._memory = memory

    def observe(self) -> c.KernelState:
        table = self._rules()
        if table is None:
            return c.KernelState()
        known, now = self._recall(), listing.digests(table)
        same = {name for name, digest in now.items() if known.get(name, {}).get("listing") == digest}
        services: dict[str, c.ServiceRule | None] = {}
        instances: dict[str, c.InstanceRule | None] = {}
        for name in now.keys() - _FIXED:
            rule = known[name]["rule"] if name in same else None
            if name.startswith("service-"):
                services[name.removeprefix("service-")] = _service_rule(rule) if rule else None
            else:
                instances[name] = _instance_rule(rule) if rule else None
        found = dict(pair for name in _MAPS for pair in listing.listens(name, self._elements(name)))
        drift = {name.removeprefix("service-") for name in now if name not in same and name not in _FIXED}
        return c.KernelState(
            home=listing.home_of(table),
            services=services,
            instances=instances,
            slots={name: self.read_slots(name) for name in services},
            listens=listing.merge(found),
            ports=listing.ranges(self._elements("ports", kind="set")),
            drift=frozenset(drift | ({""} if not same >= _FIXED else set())),
        )

    def recover(self) -> c.KernelState:
        state, table = self.observe(), self._rules() or {"nftables": []}
        instances = {name: listing.instance_rule(name, listing.rules_of(table, name)) for name in state.instances}
        services = {}
        for name in state.services:
            found = listing.seed_and_slots(listing.rules_of(table, f"service-{name}"))
            services[name] = c.ServiceRule(name, Affinity("source"), *found) if found else None
        return replace(state, services=services, instances=instances)

    def _rules(self) -> listing.Json | None:
        """List the table without the elements of its maps; None where there is no table."""
        self._nft.set_terse_output(True)
        try:
            return self._list(f"list table {TABLE}")
        finally:
            self._nft.set_terse_output(False)

    def read_slots(self, service: str) -> tuple[str | None, ...]:
        pairs = {int(key): listing.target(data) for key, data in listing.elements(self._elements(f"slots-{service}"))}
        return tuple(pairs.get(slot) for slot in range(max(pairs) + 1)) if pairs else ()

    def check(self, transaction: c.Transaction) -> None:
        with self._dry():
            self._run(self.text(transaction))

    def run(self, transaction: c.Transaction) -> None:
        self._run(self.text(transaction))
        self._remember(transaction)

    def text(self, transaction: c.Transaction) -> str:
        from portfleet.kernel.nft_text import text

        return text(transaction)

    def _elements(self, name: str, *, kind: str = "map") -> listing.Json:
        return self._list(f"list {kind} {TABLE} {name}") or {"nftables": []}

    def _list(self, command: str) -> listing.Json | None:
        code, out, err = self._nft.cmd(command)
        if code:
            if "No such file or directory" in err:
                return None
            raise _refused(err, command)
        return json.loads(out)  # type: ignore[no-any-return] # what nft prints is an object

    def _run(self, script: str) -> None:
        code, _, err = self._nft.cmd(script)
        if code:
            raise _refused(err, script)

    @contextmanager
    def _dry(self) -> Iterator[None]:
        # python-nftables 1.0.2 does not wrap this call of libnftables, which has had it since 0.9.0.
        lib, context = ctypes.CDLL("libnftables.so.1"), ctypes.c_void_p(self._nft._Nftables__ctx)
        lib.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        lib.nft_ctx_set_dry_run(context, True)
        try:
            yield
        finally:
            lib.nft_ctx_set_dry_run(context, False)

    def _recall(self) -> dict[str, Any]:
        try:
            found = json.loads(self._memory.read_text())
            return {name: entry for name, entry in found.items() if entry.keys() == {"rule", "listing"}}
        except (OSError, ValueError, AttributeError):
            return {}

    def _remember(self, transaction: c.Transaction) -> None:
        """Note what nft prints for the chains that ``transaction`` set. Elements are read back, not remembered."""
        rules: dict[str, Any] = {}
        for change in transaction:
            match change:
                case c.SetBase():
                    rules |= dict.fromkeys(_FIXED)
                case c.SetService(rule):
                    rules[f"service-{rule.name}"] = asdict(rule)
                case c.SetInstance(rule):
                    rules[rule.name] = asdict(rule)
                case _:
                    pass
        if not rules:
            return
        now = listing.digests(self._rules() or {"nftables": []})
        known = {name: entry for name, entry in self._recall().items() if name in now}
        known |= {name: {"rule": rule, "listing": now[name]} for name, rule in rules.items() if name in now}
        atomic.write(self._memory, json.dumps(known).encode(), mode=0o600)


def _service_rule(data: dict[str, Any]) -> c.ServiceRule:
    return c.ServiceRule(**(data | {"affinity": Affinity(**data["affinity"])}))


def _instance_rule(data: dict[str, Any]) -> c.InstanceRule:
    remote = data["remote"]
    return c.InstanceRule(**(data | {"remote": Listen(**remote) if remote else None}))


def _refused(said: str, script: str) -> PortfleetError:
    if "Operation not permitted" in said:
        hint = "run as root, or give the program CAP_NET_ADMIN"
        return PortfleetError("cannot change nftables: Operation not permitted", hint=hint, code=Exit.KERNEL)
    lines = script.splitlines()
    shown = [f"{number:5}  {line[:160]}" for number, line in enumerate(lines[:_SHOWN_LINES], 1)]
    if len(lines) > _SHOWN_LINES:
        shown.append(f"       … {len(lines) - _SHOWN_LINES} more lines")
    return PortfleetError(
        f"cannot change nftables, nothing was applied: {said.strip()}\n" + "\n".join(shown),
        hint="portfleet doctor says what this kernel and nft lack",
        code=Exit.KERNEL,
    )
