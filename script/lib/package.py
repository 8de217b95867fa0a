"""The Debian package: `package.py DIR [VERSION]` writes portfleet_VERSION_all.deb and prints its path.

What is in it, and why it brings its own modules: docs/decisions/0020-debian-package.md.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from manpages import pages
from portfleet.commands.completion import SHELLS
from wheels import TOP, build, pip

#: Pythons of Debian 12 and 13, of Ubuntu 24.04, and the one after: one directory of modules serves them all.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PREFIX = Path("opt/portfleet")
PROGRAMS = {
    "portfleet": "portfleet.__main__",
    "portfleet-daemon": "portfleet_daemon.__main__",
    "supervisord": "supervisor.supervisord",
    "supervisorctl": "supervisor.supervisorctl",
}
#: What people call; supervisor's own are for the package's scripts and for looking into.
ON_PATH = ("portfleet", "portfleet-daemon")
COMPLETIONS = dict(
    zip(
        SHELLS,
        ("bash-completion/completions/portfleet", "zsh/vendor-completions/_portfleet",
         "fish/vendor_completions.d/portfleet.fish"),
        strict=True,
    )
)  # fmt: skip
CONTROL = """\
Package: portfleet
Version: {version}
Architecture: all
Maintainer: The portfleet team <portfleet@example.net>
Section: net
Priority: optional
Installed-Size: {size}
Depends: python3 (>= 3.11), python3 (<< 3.15), libnftables1, nftables, passwd, procps
Recommends: conntrack, kmod, logrotate
Description: TCP services behind the kernel's own load balancer
 Runs a TCP service as a fleet of single-threaded daemons, each on a port of its
 own. nftables rules spread connections over them, supervisord keeps them running,
 and releases, drains and re-balances drop no connection of a daemon that can hand
 its connections off.
"""


def modules(root: Path, version: str | None) -> str:
    """Put portfleet and all it imports below ``root``; return the version."""
    site = root / PREFIX / "lib/python3/site-packages"
    site.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as house:
        wheel = build(Path(house), version)
        pip("install", "--target", site, "--no-compile", "--only-binary=:all:", wheel)
    # markupsafe does without its C part, which serves one Python on one architecture.
    for path in (site / "bin", *site.rglob("*.so"), *site.rglob("*.c"), *site.rglob("direct_url.json")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return wheel.name.split("-")[1]


def environment(root: Path) -> None:
    """Make the venv around the modules: Python takes it for one by pyvenv.cfg (site.py)."""
    prefix = root / PREFIX
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for python in PYTHONS:
        (prefix / f"lib/python{python}").symlink_to("python3")
    (prefix / "bin").mkdir()
    for name in ("python", "python3"):
        (prefix / "bin" / name).symlink_to("/usr/bin/python3")
    for program, module in PROGRAMS.items():
        text = f"#!/{PREFIX}/bin/python\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n"
        install(text, prefix / "bin" / program, mode=0o755)
    for program in ON_PATH:
        (root / "usr/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/bin" / program).symlink_to(f"/{PREFIX}/bin/{program}")


def install(text: str, to: Path, *, mode: int = 0o644) -> None:
    """Write ``text`` to ``to``; its folder is made, and a name that ends with .gz has it compressed."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(gzip.compress(text.encode(), 9, mtime=0) if to.suffix == ".gz" else text.encode())
    to.chmod(mode)


def system(root: Path) -> None:
    """Put unit, sysctls, log rotation, completions, manual pages and documents in their places."""
    shared = TOP / "templates/system"
    install((shared / "portfleet.service").read_text(), root / "usr/lib/systemd/system/portfleet.service")
    install((shared / "sysctl.conf").read_text(), root / "usr/lib/sysctl.d/60-portfleet.conf")
    install("nf_conntrack\n", root / "usr/lib/modules-load.d/portfleet.conf")
    install((shared / "logrotate.conf").read_text(), root / "etc/logrotate.d/portfleet")
    for shell, place in COMPLETIONS.items():
        install((TOP / f"templates/completion/portfleet.{shell}").read_text(), root / "usr/share" / place)
    for page, text in pages().items():
        install(text, root / f"usr/share/man/man{page[-1]}/{page}.gz")
    documents = root / "usr/share/doc/portfleet"
    install((TOP / "CHANGELOG.md").read_text(), documents / "changelog.gz")
    install((TOP / "LICENSE").read_text(), documents / "copyright")


def control(root: Path, version: str) -> None:
    """Write what dpkg is told."""
    size = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())
    install(CONTROL.format(version=version, size=size // 1024), root / "DEBIAN/control")
    install("/etc/logrotate.d/portfleet\n", root / "DEBIAN/conffiles")
    for script in ("postinst", "prerm", "postrm"):
        install((TOP / "script/lib/debian" / script).read_text(), root / "DEBIAN" / script, mode=0o755)


def main(folder: Path, version: str | None) -> None:
    """Make the package; the same commit makes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    told = ["git", "-C", str(TOP), "log", "-1", "--format=%ct"]
    stamp = subprocess.run(told, capture_output=True, text=True, check=False).stdout.strip()
    with tempfile.TemporaryDirectory() as work:
        root = Path(work, "root")
        version = modules(root, version)
        environment(root)
        system(root)
        control(root, version)
        for path in root.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)
            if stamp:
                os.utime(path, (int(stamp), int(stamp)), follow_symlinks=False)
        deb = folder / f"portfleet_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, deb],
            check=True, stdout=subprocess.DEVNULL, env=os.environ | ({"SOURCE_DATE_EPOCH": stamp} if stamp else {}),
        )  # fmt: skip
    print(deb)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2] if len(sys.argv) > 2 else None)
