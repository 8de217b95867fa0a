"""Booted hosts: systemd-nspawn with systemd as PID 1, each with its own network namespace on one bridge.

    here   192.0.2.1, 2001:db8::1     the bridge; the clients: 198.18.0.0/15 is local here and routed back by the hosts
    one    192.0.2.11, 2001:db8::11   and so on: two is 192.0.2.12

Everything is made in the namespaces this process runs in, which are to be those of `script/isolated`: when its PID 1
ends, so do the hosts, their mounts and networks. Only their control groups are the machine's: `nspawn.py` run on the
outside removes those that a killed run has left.

Facts: a reboot of a host ends nspawn with exit 133 (`--keep-unit`), so a new network namespace can be given to it, as
a machine's rules and connections are gone after its reboot. Under `ip netns exec` nspawn never comes up, because
that mounts another /sys; so the namespace is passed by its path.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

HERE4, HERE6 = "192.0.2.1", "2001:db8::1"
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_GROUPS = Path("/sys/fs/cgroup")
_REBOOT = 133
_SSH = [
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "LogLevel=ERROR",
    "-o",
    "ControlMaster=no",
]


class HostError(RuntimeError):
    """A host could not be made or a command on it failed; the message holds what was printed."""


def run(*command: str | Path, timeout: float = 60) -> str:
    """Run ``command`` and give its output; raises HostError with what it printed."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise HostError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass
class Host:
    """One host. ``folder`` holds its overlay; ``key`` is the ssh key that opens it as root."""

    name: str
    number: int
    folder: Path
    key: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"192.0.2.{10 + self.number}"

    @property
    def address6(self) -> str:
        return f"2001:db8::{10 + self.number}"

    @property
    def root(self) -> Path:
        """Its file system as seen from here."""
        return self.folder / "root"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    def ssh(self) -> list[str]:
        """Return the ssh command line up to the command."""
        return ["ssh", *_SSH, "-i", str(self.key), f"root@{self.address}"]

    def run(self, command: str, *, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host; raises HostError on a non-zero exit when ``check``."""
        done = subprocess.run(
            [*self.ssh(), command],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if check and done.returncode:
            raise HostError(f"{self.name}: {command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def boot(self) -> None:
        """Switch it on and wait until systemd says it is up."""
        self._connect()
        groups = [_group(self.name, top) for top in _hierarchies()]
        for group in groups:
            group.mkdir(exist_ok=True)
        enter = "".join(f"echo 0 >'{group}/cgroup.procs'; " for group in groups)
        nspawn = (
            f"exec systemd-nspawn -q -D '{self.root}' --boot --network-namespace-path=/run/netns/{self.name} "
            f"--register=no --keep-unit --console=pipe --machine={self.name} --resolv-conf=off "
            "--capability=CAP_NET_ADMIN,CAP_SYS_RESOURCE,CAP_IPC_LOCK"
        )
        # Without the variable net.* sysctls are read-only in the host.
        environment = os.environ | {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
        with self.console.open("ab") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", enter + nspawn],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environment,
            )
        self._wait(f"{self.name} answers ssh", self._up, seconds=60)
        # "degraded" ends the waiting too: what failed is for a test to say.
        self.run("systemctl is-system-running --wait", check=False)

    def reboot(self) -> None:
        """Reboot it from within, and wait until it is up again: with no rules and no connections, as a machine is."""
        assert self._process is not None
        self.run("systemctl reboot", check=False)  # ssh may be cut off before it says so
        if (code := self._process.wait(timeout=120)) != _REBOOT:
            raise HostError(f"{self.name} ended with {code} instead of rebooting; see {self.console}")
        self._disconnect()
        self.boot()

    def cut(self) -> None:
        """Cut its power: nothing is told, nothing is written."""
        if self._process is None:
            return
        # The end of nspawn alone leaves the host's processes running.
        self._wait(f"{self.name} is off", self._killed, seconds=30)
        self._process.wait()
        self._process = None
        self._disconnect()

    def link(self, state: Literal["up", "down"]) -> None:
        """Plug its cable in or out, at the bridge."""
        run("ip", "link", "set", f"to-{self.name}", state)

    def freeze(self) -> None:
        """Stop all its processes where they are, and let no packet in or out."""
        self.link("down")
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its processes go on; the cable is still out."""
        self._signal(signal.SIGCONT)

    def _killed(self) -> bool:
        """Kill what is in the host's control groups, nspawn among it; true when nothing is."""
        return not self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> set[int]:
        """Send a signal to all in the host's control groups, nspawn among it; return their PIDs."""
        pids = {pid for top in _hierarchies() for pid in _pids(_group(self.name, top))}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def _up(self) -> bool:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            raise HostError(f"{self.name} ended with {code}:\n{self.console.read_text(errors='replace')[-2000:]}")
        return self.run("true", check=False).returncode == 0

    def _connect(self) -> None:
        """Return it a new network namespace, joined to the bridge."""
        run("ip", "netns", "add", self.name)
        # The same hardware address after every boot: with another, neighbours' ARP entries lead astray for a minute.
        peer = ("name", "eth0", "address", f"02:00:00:00:02:{10 + self.number:02x}", "netns", self.name)
        run("ip", "link", "add", f"to-{self.name}", "type", "veth", "peer", *peer)
        run("ip", "link", "set", f"to-{self.name}", "master", "hosts", "up")
        inside = ("ip", "-n", self.name)
        run(*inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run(*inside, "addr", "add", f"{self.address6}/64", "dev", "eth0", "nodad")
        for device in ("lo", "eth0"):
            run(*inside, "link", "set", device, "up")
        run(*inside, "route", "add", "default", "via", HERE4)
        run(*inside, "-6", "route", "add", "default", "via", HERE6)

    def _disconnect(self) -> None:
        """Take its network away; the link first, as the kernel ends one with its namespace some time later."""
        run("ip", "link", "del", f"to-{self.name}")
        run("ip", "netns", "del", self.name)

    def _wait(self, what: str, condition: Callable[[], bool], *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise HostError(f"after {seconds:.0f} s still not: {what}; see {self.console}")
            time.sleep(0.1)


@contextmanager
def hosts(image: Path, names: tuple[str, ...] = ("one", "two")) -> Iterator[dict[str, Host]]:
    """Return booted hosts of ``image`` by name; they end with the block. Others may be up beside them."""
    folder = Path(tempfile.mkdtemp(prefix="hosts-"))
    _bridge()
    key = folder / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    made = {name: Host(name, NUMBERS[name], folder / name, key) for name in names}
    try:
        for host in made.values():
            _fill(host, image, made)
            host.boot()
        yield made
    finally:
        for host in made.values():
            host.cut()
        sweep()


@cache
def _bridge() -> None:
    """Make the bridge, and every client address local; once for all hosts."""
    Path("/run/netns").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    run("ip", "link", "add", "hosts", "type", "bridge")
    run("ip", "addr", "add", f"{HERE4}/24", "dev", "hosts")
    run("ip", "addr", "add", f"{HERE6}/64", "dev", "hosts", "nodad")
    run("ip", "link", "set", "hosts", "up")
    run("ip", "route", "add", "local", "198.18.0.0/15", "dev", "lo")


def _fill(host: Host, image: Path, every: dict[str, Host]) -> None:
    """Lay the host's own files over the image."""
    for name in ("upper", "work", "root"):
        (host.folder / name).mkdir(parents=True)
    layers = f"lowerdir={image},upperdir={host.folder / 'upper'},workdir={host.folder / 'work'}"
    run("mount", "-t", "overlay", "overlay", "-o", layers, host.root)
    # Where package lists look older than a day, the role asks for newer ones, and there is no network.
    (host.root / "var/lib/apt/lists").touch()
    (host.root / "etc/hostname").write_text(f"{host.name}\n")
    names = "".join(f"{other.address} {other.name}\n" for other in every.values())
    (host.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{names}")
    folder = host.root / "root/.ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "authorized_keys").write_text(host.key.with_suffix(".pub").read_text())


def _hierarchies() -> list[Path]:
    """Return the control group trees that systemd in a host needs a group in."""
    if (_GROUPS / "cgroup.controllers").exists():
        return [_GROUPS]
    return [_GROUPS / name for name in ("systemd", "unified", "memory", "pids") if (_GROUPS / name).is_dir()]


def _group(name: str, top: Path) -> Path:
    return top / f"portfleet-host-{name}-{Path('/proc/self/ns/net').stat().st_ino}"


def _pids(group: Path) -> set[int]:
    """Return the PIDs in a control group and those below it, some of which, such as sessions', may end meanwhile."""
    found: set[int] = set()
    for below, _, _ in os.walk(group):  # which passes over a folder that is gone
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in Path(below, "cgroup.procs").read_text().split()}
    return found


def sweep() -> None:
    """Remove the control groups of hosts that are gone, also of runs that were killed."""
    for top in _hierarchies():
        for group in top.glob("portfleet-host-*"):
            if _pids(group):
                continue
            # The kernel refuses to remove one that is in use, and wants the leaves first.
            for below, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(below).rmdir()


if __name__ == "__main__":
    sweep()
