"""One finding: how bad, what is so, why it matters, and the command that fixes it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    FINE = "fine"  #: looked at, and as it should be
    WARNING = "warning"  #: works now; will hurt under load, or when something else happens
    BROKEN = "broken"  #: the fleet does not work, or connections get lost


@dataclass(frozen=True)
class Finding:
    """``about`` is the thing looked at, such as ``net.core.somaxconn``; ``why`` and ``mend`` are empty when fine."""

    about: str
    severity: Severity
    what: str
    why: str = ""
    mend: str = ""


def fine(about: str, what: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(about, Severity.FINE, what)


def warning(about: str, what: str, *, why: str, mend: str) -> Finding:
    """Return a finding that can wait until tomorrow."""
    return Finding(about, Severity.WARNING, what, why, mend)


def broken(about: str, what: str, *, why: str, mend: str) -> Finding:
    """Return a finding that cannot wait."""
    return Finding(about, Severity.BROKEN, what, why, mend)


def setting(name: str, value: int | str) -> str:
    """Return the command that sets a sysctl now and at every boot, and reads it back."""
    return f"echo '{name} = {value}' | tee -a /etc/sysctl.d/60-portfleet.conf | sysctl -p - && sysctl {name}"
