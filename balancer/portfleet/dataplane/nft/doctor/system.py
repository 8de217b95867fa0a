"""Kernel, nft and rights: what cannot be worked around."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.needs import Needs
from portfleet.doctor.finding import Finding, broken, fine, warning
from portfleet.linux.machine import in_first_user_namespace

KERNEL_FLOOR, KEEPER_FLOOR, NFT_FLOOR = (5, 10), (5, 12), (1, 0, 2)

#: Bits of linux/capability.h: what each is needed for.
_RIGHTS = {12: ("CAP_NET_ADMIN", "nftables and conntrack are changed with it")}
_RIGHTS_FOR_USERS = {
    6: ("CAP_SETGID", "instances of another user are started with it"),
    7: ("CAP_SETUID", "instances of another user are started with it"),
    0: ("CAP_CHOWN", "a daemon of another user gets a directory of its own for its control socket"),
    5: ("CAP_KILL", "instances of another user are stopped with it"),
    1: ("CAP_DAC_OVERRIDE", "control sockets of another user are reached with it"),
    19: ("CAP_SYS_PTRACE", "whose a listening socket is stands in /proc/PID/fd of another user"),
}


#: What works otherwise where root is not the machine's root.
_WITHOUT = (
    "not the machine's first: the watcher has no precedence over busy instances, large changes of the rules are made "
    "in parts, and those of others are looked for where their notifications are lost"
)


@dataclass(frozen=True)
class SystemFacts:
    """What cannot be changed from here.

    ``release`` is the kernel's; ``nft`` what `nft --version` says ("" for no nft); ``rights`` is CapEff, which counts
    for the whole machine in its ``first_namespace`` of users alone.
    """

    release: str
    nft: str
    libnftables: bool
    rights: int
    first_namespace: bool


def read() -> SystemFacts:
    """Read the facts of this machine."""
    status = Path("/proc/self/status").read_text()
    rights = re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)
    return SystemFacts(
        release=os.uname().release,
        nft=_nft_version(),
        libnftables=_has_libnftables(),
        rights=int(rights[1], 16) if rights else 0,
        first_namespace=in_first_user_namespace(),
    )


def judge(facts: SystemFacts, needs: Needs) -> Iterator[Finding]:
    """Judge kernel, nft and rights."""
    yield _plane(facts)
    yield from _nft(facts)
    wanted = _RIGHTS | (_RIGHTS_FOR_USERS if needs.users else {})
    missing = [name_why for bit, name_why in wanted.items() if not facts.rights >> bit & 1]
    for name, why in missing:
        yield broken("capabilities", f"{name} is missing", why=why, mend="sudo portfleet doctor")
    if not missing:
        yield fine("capabilities", ", ".join(name for name, _ in wanted.values()))
    if not facts.first_namespace:
        yield fine("user namespace", _WITHOUT)


def version(text: str) -> tuple[int, ...]:
    """Return the first dotted number of ``text``, as (6, 1, 0) for "6.1.0-18-amd64"; () where there is none."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def _plane(facts: SystemFacts) -> Finding:
    if version(facts.release) >= KEEPER_FLOOR:
        return fine("kernel", facts.release)
    if version(facts.release) >= KERNEL_FLOOR:
        return warning(
            "kernel",
            f"{facts.release} has no tables with an owner (Linux {'.'.join(map(str, KEEPER_FLOOR))})",
            why="there is no keeper: whoever flushes all nftables rules ends every established connection",
            mend="boot a newer kernel: Debian 12's is 6.1 (apt-get install linux-image-amd64)",
        )
    return broken(
        "kernel",
        f"{facts.release} is older than {'.'.join(map(str, KERNEL_FLOOR))}",
        why="its nftables lacks what the rules are made of",
        mend="boot a newer kernel: Debian 12's is 6.1 (apt-get install linux-image-amd64)",
    )


def _nft(facts: SystemFacts) -> Iterator[Finding]:
    if not facts.libnftables:
        yield broken(
            "nft",
            "libnftables cannot be loaded",
            why="every rule is set through it",
            mend="apt-get install libnftables1",
        )
    elif not facts.nft:
        yield fine("nft", "libnftables is there; its version is unknown without the nft command")
    elif version(facts.nft) < NFT_FLOOR:
        yield broken(
            "nft",
            f"{facts.nft} is older than {'.'.join(map(str, NFT_FLOOR))}",
            why="it refuses maps of verdicts keyed by a hash",
            mend="apt-get install nftables libnftables1 (Debian 12 has 1.0.6)",
        )
    else:
        yield fine("nft", facts.nft)


def _nft_version() -> str:
    if not shutil.which("nft"):
        return ""
    said = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=False).stdout
    return ".".join(map(str, version(said)))


def _has_libnftables() -> bool:
    import ctypes

    try:
        ctypes.CDLL("libnftables.so.1")
    except OSError:
        return False
    return True
