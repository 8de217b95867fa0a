"""libnftables in this process: text in, JSON out, and what it refuses said as an error an operator understands."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from portfleet.core.errors import Exit, PortfleetError

#: Larger scripts are shown to people by their beginning only.
_SHOWN_LINES = 40


class InUse(PortfleetError):
    """Something was to be removed to which something else leads yet."""


class TooLong(PortfleetError):
    """A transaction is longer than the longest message that the kernel takes of this process (see `parts`)."""


class NftContext:
    """One context of libnftables: one netlink socket, kept open. Methods raise PortfleetError (exit 3).

    ``done`` is how many transactions it has carried out.
    """

    def __init__(self) -> None:
        self.done = 0
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
        self._nft.set_stateless_output(True)

    def ask(self, command: str) -> Mapping[str, Any] | None:
        """List something as JSON; None if it does not exist."""
        self._nft.set_json_output(True)
        out = self._list(command)
        return None if out is None else json.loads(out)

    def show(self, command: str) -> str | None:
        """List something as text, without counters and without the elements of sets and maps."""
        self._nft.set_json_output(False)
        self._nft.set_terse_output(True)
        try:
            return self._list(command)
        finally:
            self._nft.set_terse_output(False)

    def _list(self, command: str) -> str | None:
        code, out, err = self._nft.cmd(command)
        if not code:
            return str(out)
        if "No such file or directory" in err:
            return None
        raise _refused(err, command)

    def do(self, script: str, *, dry: bool = False) -> None:
        """Run a script as one transaction; ``dry`` only checks it."""
        with self._dry() if dry else _nothing():
            code, _, err = self._nft.cmd(script)
        if code:
            raise _refused(err, script)
        self.done += not dry

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


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _refused(said: str, script: str) -> PortfleetError:
    if "Operation not permitted" in said:
        hint = "run as root, or give the program CAP_NET_ADMIN"
        return PortfleetError("cannot change nftables: Operation not permitted", hint=hint, code=Exit.KERNEL)
    lines = script.splitlines()
    shown = [f"{number:5}  {line[:160]}" for number, line in enumerate(lines[:_SHOWN_LINES], 1)]
    if len(lines) > _SHOWN_LINES:
        shown.append(f"       … {len(lines) - _SHOWN_LINES} more lines")
    kinds = {"Device or resource busy": InUse, "Message too long": TooLong}
    kind = next((kind for words, kind in kinds.items() if words in said), PortfleetError)
    return kind(
        f"cannot change nftables, nothing was applied: {said.strip()}\n" + "\n".join(shown),
        hint="portfleet doctor says what this kernel and nft lack",
        code=Exit.KERNEL,
    )
