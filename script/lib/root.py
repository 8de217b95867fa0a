"""Debian root file systems to run the checkout in: `root.py bare|warm SUITE [--no-network] [--give DIR] [COMMAND…]`.

    bare   a new minbase root with nothing but python3 and apt, and a clean clone of the checkout; removed afterwards
    warm   a root that is kept between runs, with a copy of the working tree; for quick runs under another Debian

The checkout is /srv/portfleet in both; --give copies a folder of the machine to /srv/given of a bare root. Roots are
kept in ``$XDG_CACHE_HOME/portfleet/roots`` (default ~/.cache);
``rm -r`` of that folder is safe whenever nothing runs. All mounts are made in a private mount namespace, so the
kernel undoes them when the command ends, however it ends. The root is entered by pivot_root and not chroot: the
kernel refuses user namespaces to a chrooted process (user_namespaces(7)), and what runs here makes them.

What the machine was told about reaching packages goes with it: name servers, apt's proxy and checks, proxy
variables, pip's settings (and the folders they name), and the CA bundle. Needs root and debootstrap.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

TOP = Path(__file__).resolve().parents[2]
CHECKOUT = "srv/portfleet"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
#: Not the bundle's usual path: Debian's ca-certificates package replaces that file when it is installed.
CARRIED_CA = "etc/machine-ca.crt"

#: $1: the root; up to "--": folders to show read-only at the same path; then the command. Runs in new namespaces.
_ENTER = f"""
set -eu
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
while [ "$1" != -- ]; do
  mkdir -p "$root$1"; mount --bind -o ro "$1" "$root$1"; shift
done
shift
cd "$root"; mkdir -p .outside; pivot_root . .outside; umount -l /.outside; rmdir /.outside
cd /{CHECKOUT}
unset TMPDIR  # a folder of the outside
exec "$@"
"""


class RootError(Exception):
    """A root cannot be made; says what is wrong and what now."""


def run(*command: str | Path) -> str:
    """Run ``command`` and give its output; raises RootError with what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RootError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{said}")
    return str(done.stdout)


def cache() -> Path:
    """Return the folder that keeps the roots."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portfleet" / "roots"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of one kept root."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def bare_root(suite: str) -> Path:
    """Return the kept minbase root of a Debian suite, made by debootstrap if it is not there yet."""
    kept = cache() / f"{suite}-{platform.machine()}"
    with locked(kept.name):
        if not kept.exists():
            partial = kept.with_name(kept.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            print(f"debootstrap: making a minimal Debian {suite} (about half a minute)", file=sys.stderr)
            run("debootstrap", "--variant=minbase", "--include=python3", suite, partial)
            run("rm", "-rf", *(partial / "var/cache/apt/archives").glob("*.deb"), partial / "debootstrap")
            partial.rename(kept)
    return kept


def pip_settings() -> dict[str, str]:
    """Return pip's settings on this machine, from its files and the environment, as PIP_… variables."""
    found = {}
    for line in run(TOP / ".venv/bin/python", "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if section in {"global", "install"}:
            found["PIP_" + key.upper().replace("-", "_")] = value.strip("'\"").replace("\\n", " ")
    return found | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def carried() -> dict[str, str]:
    """Return the part of this machine's environment that says how to reach packages, and how to print."""
    return {n: v for n, v in os.environ.items() if n.lower().endswith("_proxy") or n in {"TERM", "NO_COLOR"}} | (
        pip_settings()
    )


def environment() -> dict[str, str]:
    """Return the environment of a command in a root: a fresh machine's, and how this machine reaches packages."""
    plain = {"HOME": "/root", "USER": "root", "LANG": "C.UTF-8"}
    plain["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    if CA_BUNDLE.exists():
        names = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        plain |= dict.fromkeys(names, f"/{CARRIED_CA}")
    return carried() | plain


def local_folders(settings: dict[str, str]) -> list[str]:
    """Return the folders on this machine that pip's settings name, as paths or file: addresses, or have files in."""
    names = ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT")
    words = " ".join(settings.get(name, "") for name in names).split()
    paths = [Path(urlsplit(word).path) for word in words if word.startswith(("/", "file:"))]
    # The whole index, not its page alone: its links go to files beside it.
    return sorted(
        {str(path.parent if path.name == "simple" or path.is_file() else path) for path in paths if path.exists()}
    )


def carry_in(root: Path) -> None:
    """Copy into ``root`` what this machine knows about reaching the network and packages."""
    for name in ("etc/resolv.conf", "etc/hosts"):
        shutil.copyfile(f"/{name}", root / name)
    if CA_BUNDLE.exists():
        shutil.copyfile(CA_BUNDLE, root / CARRIED_CA)
    wanted = ("Acquire::http", "Acquire::ftp", "Acquire::Check-", "Acquire::Retries")
    lines = [line for line in run("apt-config", "dump").splitlines() if line.startswith(wanted)]
    (root / "etc/apt/apt.conf.d/90machine").write_text("\n".join(lines) + "\n")


def enter(root: Path, command: list[str], *, network: bool) -> int:
    """Run ``command`` in ``root`` and give its exit status."""
    carry_in(root)
    variables = environment()
    isolated = [str(TOP / "script/isolated"), *(["--network"] if network else [])]
    shown = local_folders(variables)
    # The variables go by env= and not on the command line, where every user could read an index's password.
    done = subprocess.run(
        [*isolated, "sh", "-c", _ENTER, "enter", str(root), *shown, "--", *command], env=variables, check=False
    )
    return done.returncode


def run_bare(suite: str, command: list[str], *, network: bool) -> int:
    """Run ``command`` in a new root with a clean clone of the checkout's last commit."""
    given, command = (command[1], command[2:]) if command[:1] == ["--give"] else (None, command)
    base = bare_root(suite)
    with tempfile.TemporaryDirectory(prefix=f"{suite}-run-", dir=cache()) as work:
        root = Path(work) / "root"
        run("cp", "-a", "--reflink=auto", base, root)
        run("git", "clone", "--quiet", "--no-hardlinks", TOP, root / CHECKOUT)
        if given:
            shutil.copytree(given, root / "srv/given")
        commit = run("git", "-C", root / CHECKOUT, "log", "-1", "--format=%h %s").strip()
        print(f"bare Debian {suite}, clean clone of {commit}", file=sys.stderr)
        return enter(root, command, network=network)


@contextmanager
def warm(suite: str) -> Iterator[Path]:
    """Lock and return the kept root of ``suite``, with the working tree as it is now, committed or not."""
    base = bare_root(suite)
    root = base.with_name(base.name + "-warm")
    with locked(root.name):
        if not root.exists():
            partial = root.with_name(root.name + ".partial")
            run("rm", "-rf", partial)
            run("cp", "-a", "--reflink=auto", base, partial)
            partial.rename(root)
        checkout = root / CHECKOUT
        checkout.mkdir(parents=True, exist_ok=True)
        for old in checkout.iterdir():
            if old.name not in {".venv", ".cache"}:
                run("rm", "-rf", old)
        names = run("git", "-C", TOP, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in filter(None, names.split("\0")):
            if (TOP / name).exists():
                (checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(TOP / name, checkout / name, follow_symlinks=False)
        yield root


def run_warm(suite: str, command: list[str], *, network: bool) -> int:
    """Run ``command`` in the kept root of ``suite``."""
    with warm(suite) as root:
        return enter(root, command, network=network)


def main(arguments: list[str]) -> int:
    """Take the command line; see the top of this file."""
    kind, suite, *command = arguments
    network = command[:1] != ["--no-network"]
    command = command if network else command[1:]
    try:
        if os.geteuid() != 0:
            raise RootError("making a Debian root needs root\nhint: run it with sudo")
        if not shutil.which("debootstrap"):
            raise RootError("debootstrap is not installed\nhint: script/setup --roots")
        return {"bare": run_bare, "warm": run_warm}[kind](suite, command, network=network)
    except RootError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
