"""What this machine is: read once from /proc and the user database, handed to the pure parts as a value."""

from __future__ import annotations

import errno
import os
import pwd
import resource
import socket
import sys
from pathlib import Path

from portfleet.core.model import Machine

#: PROC_USER_INIT_INO of linux/proc_ns.h.
_FIRST_USER_NAMESPACE = 0xEFFFFFFD
#: asm-generic/socket.h.
_SO_NETNS_COOKIE = 71
#: Where Debian and systemd look for programs (DEFAULT_PATH of systemd.exec(5)), and Debian's /sbin and /bin.
_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def read_machine() -> Machine:
    """Read the facts that a config is checked against."""
    low, high = sysctl("net.ipv4.ip_local_port_range", "32768 60999").split()
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        descriptors=descriptor_limit(),
        local_ports=(int(low), int(high)),
        reserved=tuple(_ranges(sysctl("net.ipv4.ip_local_reserved_ports", ""))),
        find=find_command,
        has_user=_has_user,
        maps_user=_maps_user,
        has_path=has_path,
        is_root=os.geteuid() == 0,
        ipv6=_has_ipv6(),
        real=real_path,
    )


def unprivileged_user() -> str | None:
    """Return whom root can run a process as that needs no right; None if this is not root, or cannot become another."""
    return "nobody" if os.geteuid() == 0 and _has_user("nobody") and _maps_user("nobody") else None


def user_id(name: str | None) -> int:
    """Return the number of a user, this process's for None; raise KeyError if there is no such user."""
    return os.geteuid() if name is None else pwd.getpwnam(name).pw_uid


def in_first_user_namespace() -> bool:
    """Return whether rights count for the whole machine: those of another user namespace (unshare -U) do not."""
    return Path("/proc/self/ns/user").stat().st_ino == _FIRST_USER_NAMESPACE


def network_namespace() -> int | None:
    """Return the cookie of this network namespace, which no other has before the next boot; None before Linux 5.14."""
    with socket.socket(socket.AF_UNIX) as any_socket:
        try:
            return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return None


def boot() -> str:
    """Return what tells this boot from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def descriptor_limit() -> int:
    """Return the hard limit of descriptors a process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def sysctl(name: str, default: str | None = None) -> str:
    """Return a sysctl's value; ``default`` where this kernel does not have it (None: raises OSError)."""
    try:
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    except OSError:
        if default is None:
            raise
        return default


def search_path() -> str:
    """Return the PATH of instances: portfleet's own venv, then the system's folders, whoever starts the fleet."""
    return f"{Path(sys.executable).parent}:{_FOLDERS}"


def environment_of(user: str | None) -> dict[str, str]:
    """Return what a user's environment says of the user, None: of this one."""
    try:
        found = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    except KeyError:  # as in a container that is run with a number
        return {"HOME": "/"}
    return {"HOME": found.pw_dir, "USER": found.pw_name, "LOGNAME": found.pw_name}


def find_command(command: str) -> str | None:
    """Find a command by the PATH of instances; None if it is not found or not executable."""
    folders = search_path().split(os.pathsep) if "/" not in command else [""]
    found = (Path(folder, command) for folder in folders)
    return next((str(path) for path in found if _is_program(path)), None)


def _is_program(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.X_OK)
    except OSError:  # a name longer than any file's
        return False


def has_path(path: str) -> bool:
    """Return whether a file or directory is there; none is by a name longer than any file's."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def real_path(path: str) -> str:
    """Return a path without symbolic links, also of what is not there."""
    return str(Path(path).resolve())


def _has_ipv6() -> bool:
    """Return whether the kernel has IPv6: not if it was started with ipv6.disable=1, or has no such module."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError as error:
        return error.errno != errno.EAFNOSUPPORT
    return True


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _maps_user(name: str) -> bool:
    """Return whether a process of this user namespace can become the user ``name``, with its groups, or is it."""
    found = pwd.getpwnam(name)
    if found.pw_uid == os.geteuid():
        return True
    mapped = _maps("uid_map", found.pw_uid) and _maps("gid_map", found.pw_gid)
    return mapped and Path("/proc/self/setgroups").read_text().strip() == "allow"


def _maps(table: str, number: int) -> bool:
    """Return whether a user or group id is in the table of this user namespace: first id, first outside, length."""
    rows = (map(int, line.split()) for line in Path("/proc/self", table).read_text().splitlines())
    return any(first <= number < first + length for first, _, length in rows)


def _ranges(text: str) -> list[tuple[int, int]]:
    pairs = [part.partition("-") for part in text.split(",") if part]
    return [(int(low), int(high or low)) for low, _, high in pairs]
