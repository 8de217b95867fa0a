"""The root file system of a test host: Debian as a cloud image has it, with systemd and ssh. Prints its path.

What the role installs is downloaded but not installed, so that the hosts need no network. Kept beside the other roots
(see root.py), keyed by what it is made of.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import root

ROLE = root.TOP / "ansible/roles/portfleet/vars/main.yml"
#: What Debian's cloud images have beyond the minimal system, as far as Ansible and people need it.
INSTALLED = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "sudo",
    "iproute2",
    "iputils-ping",
    "python3-apt",
    "procps",
    "kmod",
]
#: A daemon that is not ours, firewalls that people have, and what the roles portfleet_ha and portfleet_ecmp install.
EXTRA = ["redis-server", "ufw", "firewalld", "keepalived", "conntrackd", "netbase", "openssh-client", "bird2"]

_FILL = """
set -eu
export DEBIAN_FRONTEND=noninteractive
# A package's service must not start in a root that is being made: 101 is "not allowed" (invoke-rc.d(8)).
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get update -q
apt-get install -y -q --no-install-recommends $INSTALLED
apt-get install -d -y -q --no-install-recommends $DOWNLOADED
rm /usr/sbin/policy-rc.d /etc/apt/apt.conf.d/90machine
# A host's own, made at its first boot.
rm -f /etc/machine-id /etc/hostname /etc/resolv.conf
: >/etc/machine-id
: >/etc/resolv.conf
"""


def role_packages(text: str) -> list[str]:
    """Return the Debian packages that the role installs, from its vars file (a plain YAML list of scalars)."""
    block = re.search(r"^portfleet_packages:\n((?:  - .*\n)+)", text, re.MULTILINE)
    if block is None:
        raise root.RootError(f"{ROLE}: portfleet_packages is not a list of names")
    return [line.split("#")[0].removeprefix("  - ").strip() for line in block[1].splitlines()]


def image(suite: str) -> Path:
    """Return the image of a Debian suite, made if it is not there yet."""
    packages = [*role_packages(ROLE.read_text()), *EXTRA]
    recipe = " ".join([str(root.CHECKOUT), _FILL, *INSTALLED, *packages])
    base = root.bare_root(suite)
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    kept = base.with_name(f"{base.name}-host-{key}")
    with root.locked(f"{base.name}-host"):
        if not kept.exists():
            for old in base.parent.glob(f"{base.name}-host-*"):
                root.run("rm", "-rf", old)
            partial = base.with_name(f"{base.name}-host-{key}.partial")
            root.run("rm", "-rf", partial)
            root.run("cp", "-a", "--reflink=auto", base, partial)
            (partial / root.CHECKOUT).mkdir(parents=True)
            script = f"INSTALLED='{' '.join(INSTALLED)}' DOWNLOADED='{' '.join(packages)}'\n{_FILL}"
            if root.enter(partial, ["sh", "-c", f"({script}) >/var/log/image.log 2>&1"], network=True):
                said = "\n".join((partial / "var/log/image.log").read_text().splitlines()[-15:])
                raise root.RootError(f"the image of Debian {suite} cannot be made:\n{said}")
            (partial / root.CHECKOUT).rmdir()
            partial.rename(kept)
    return kept


if __name__ == "__main__":
    try:
        print(image(sys.argv[1]))
    except root.RootError as error:
        sys.exit(str(error))
