"""Boxes made of Linux namespaces, joined by veth: real kernels' network stacks that vanish with this process.

The address plan, the same in every test, the demo and the benchmarks:

    clients  192.0.2.2, 2001:db8::2          every address of 198.18.0.0/15 and 2001:db8:1::/48 is its own (AnyIP)
       |     192.0.2.0/24, 2001:db8::/64
    host     192.0.2.1, 2001:db8::1          runs the fleet; its own /run, /var/log, processes and nftables
       |     203.0.113.0/24, 2001:db8:2::/64
    other    203.0.113.2, 2001:db8:2::2      a second box, for remote instances (made on request)

A box is a process that holds a network, PID, mount, IPC and UTS namespace. It is PID 1 of its box, so its end is the
end of everything in the box; it dies with the process that made it (PR_SET_PDEATHSIG), so nothing stays behind
even after a SIGKILL. Needs root, or a user namespace in which one is root (`script/isolated`).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

HOST4, HOST6 = "192.0.2.1", "2001:db8::1"
CLIENT4, CLIENT6 = "192.0.2.2", "2001:db8::2"
OTHER4, OTHER6 = "203.0.113.2", "2001:db8:2::2"

#: PID 1 of a box, which reaps every orphan, as an init must. Ignoring SIGCHLD would do too, but then the kernel drops
#: their processor time, and `time script/test` would not tell what the fleets took.
_INIT = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
print("up", flush=True)
while signal.sigwait({signal.SIGCHLD}):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""
#: What is done before that; $1 is the name. With duplicate address detection a link-local address is tentative for its
#: first second, and with it every neighbour: first packets are lost.
_INSIDE = """
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log && mkdir /run/netns && hostname "$1" || exit
for which in all default; do echo 0 > /proc/sys/net/ipv6/conf/$which/accept_dad || exit; done
ip link set lo up && exec /usr/bin/python3 -I -S -c "$0"
"""


class BoxError(RuntimeError):
    """A box could not be made or a command in it failed; the message holds what the command printed."""


class _Program(subprocess.Popen[str]):
    """A program in a box, for whose end a test that has failed does not wait."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)


@dataclass(frozen=True)
class Box:
    """One set of namespaces. ``pid`` is its init as seen from outside; ``users``: it has users of its own as well."""

    name: str
    pid: int
    _holder: subprocess.Popen[str]
    users: bool = False

    def argv(self, command: Sequence[str]) -> list[str]:
        """Return the argument list that runs ``command`` inside all the namespaces of this box."""
        users = ["-U", "--preserve-credentials"] if self.users else []
        return ["nsenter", "-t", str(self.pid), *users, "-n", "-p", "-m", "-i", "-u", "--", *command]

    def run(
        self,
        *command: str,
        check: bool = True,
        text: str | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in the box and give its result; raises BoxError on a non-zero exit when ``check``."""
        done = subprocess.run(
            self.argv(command),
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **env} if env else None,
        )
        if check and done.returncode:
            raise BoxError(f"{self.name}: {' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def popen(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start ``command`` in the box with pipes for its standard streams."""
        pipe = subprocess.PIPE
        return _Program(
            self.argv(command),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env={**os.environ, **env} if env else None,
        )

    def ip(self, *lines: str) -> None:
        """Have ip(8) do each of ``lines`` in the box's network."""
        self.net("ip", "-batch", "-", text="\n".join(lines))

    def net(self, *command: str, text: str = "") -> None:
        """Run ``command`` in the box's network namespace alone (PIDs are those of the outside)."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "--", *command],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BoxError(f"{self.name}: {' '.join(command)}: {done.stderr.strip()}")

    def path(self, path: str) -> Path:
        """Return where a file of the box is for this process; to read it there costs no process."""
        return Path(f"/proc/{self.pid}/root{path}")

    def sysctl(self, name: str, value: str) -> None:
        """Set a sysctl of the box and read it back: `sysctl -w` exits 0 even if nothing changed."""
        path = "/proc/sys/" + name.replace(".", "/")
        got = self.run("sh", "-c", f"echo '{value}' > {path}; cat {path}").stdout.split()
        if got != value.split():
            raise BoxError(f"{self.name}: {name} is {' '.join(got)} after setting {value}")

    def close(self) -> None:
        """End the box and everything that runs in it. The holder is a child of ours, so its PID cannot be re-used."""
        self._holder.kill()
        self._holder.wait()
        for stream in (self._holder.stdin, self._holder.stdout):
            if stream is not None:
                stream.close()


def make_box(name: str, *, users: bool = False) -> Box:
    """Make a box with nothing but a loopback interface; raises BoxError with the reason where it cannot be.

    With ``users`` its root has no right outside it, like the root of an ordinary user's namespaces.
    """
    holder = subprocess.Popen(
        [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            *(("-U", "--map-root-user") if users else ()),
            "-n",
            "-m",
            "-p",
            "-i",
            "-u",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
            "sh",
            "-c",
            _INSIDE,
            _INIT,
            name,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert holder.stdout is not None
    said = holder.stdout.readline().strip()
    if said != "up":
        holder.kill()
        holder.wait()
        raise BoxError(f"cannot make the network namespace {name!r}: {said or 'unshare said nothing'}")
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
    return Box(name, int(children[0]), holder, users)


def join(left: Box, right: Box, *, v4: str, v6: str) -> None:
    """Join two boxes by a veth pair; ``v4``/``v6`` are prefixes like "192.0.2." whose 1 is left and 2 is right."""
    left.ip(f"link add to-{right.name} type veth peer name to-{left.name} netns {right.pid}")
    for box, peer, last in ((left, right, "1"), (right, left, "2")):
        dev = f"to-{peer.name}"
        box.ip(f"addr add {v4}{last}/24 dev {dev}", f"addr add {v6}{last}/64 dev {dev} nodad", f"link set {dev} up")


@dataclass(frozen=True)
class Sandbox:
    """The boxes of the address plan."""

    host: Box
    clients: Box
    other: Box | None


@contextmanager
def sandbox(*, other: bool = False, users: bool = False) -> Iterator[Sandbox]:
    """Return the boxes of the address plan, joined and routed; they end with the block.

    ``users``: the host is a box with users of its own (see `make_box`).
    """
    made: list[Box] = []
    try:
        for name in ["host", "clients"] + (["other"] if other else []):
            made.append(make_box(name, users=users and name == "host"))
        host, clients = made[:2]
        join(host, clients, v4="192.0.2.", v6="2001:db8::")
        clients.sysctl("net.ipv6.ip_nonlocal_bind", "1")
        clients.ip("route add local 198.18.0.0/15 dev lo", "route add local 2001:db8:1::/48 dev lo")
        host.ip(f"route add 198.18.0.0/15 via {CLIENT4}", f"route add 2001:db8:1::/48 via {CLIENT6}")
        if other:
            join(host, made[2], v4="203.0.113.", v6="2001:db8:2::")
            made[2].ip("route add default via 203.0.113.1", "route add ::/0 via 2001:db8:2::1")
        yield Sandbox(host, clients, made[2] if other else None)
    finally:
        for box in made:
            box.close()


def wait_for(
    what: str,
    condition: Callable[[], T | None],
    *,
    seconds: float = 60,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call ``condition`` until it gives something true and return that; AssertionError naming ``what`` at the end.

    It pauses for as long as the condition took, so that looking takes half a processor at most.
    """
    deadline = clock() + seconds
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        if clock() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what} (last: {value!r})")
        time.sleep(max(0.02, time.monotonic() - began))


def client4(number: int) -> str:
    """Return the ``number``-th IPv4 client address (0 … 131,069) of 198.18.0.0/15."""
    number += 1
    return f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def client6(number: int) -> str:
    """Return an IPv6 client address in the ``number``-th /64 (0 … 65,535) of 2001:db8:1::/48."""
    return f"2001:db8:1:{number:x}::{number % 9 + 1:x}"
