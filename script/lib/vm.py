"""Run tests on Debian's own kernel: `vm.py PYTEST ARGUMENT…`, in a machine that QEMU emulates.

Its root is the kept Debian root of root.py, by 9p and below a tmpfs, so that a disk is neither made nor filled; its
kernel and initrd are that root's. It has no network. What its console says is printed; the exit status is a line of it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import root

SUITE = "bookworm"
MEMORY_MIB = 4096
#: What the initrd is to have beside Debian's choice.
_MODULES = ("9p", "9pnet_virtio", "virtio_pci", "overlay")
_FILL = f"""
set -eu
export DEBIAN_FRONTEND=noninteractive
if ! dpkg -s linux-image-amd64 kmod >/dev/null 2>&1; then
  apt-get update -q
  apt-get install -y -q --no-install-recommends initramfs-tools kmod zstd
  printf '%s\\n' {" ".join(_MODULES)} >>/etc/initramfs-tools/modules
  apt-get install -y -q --no-install-recommends linux-image-amd64
fi >/var/log/kernel.log 2>&1
"""
_ROOT = "root=checkout rootfstype=9p rootflags=trans=virtio,version=9p2000.L,msize=1048576,cache=loose ro"
_STATUS = re.compile(rb"^exit status (\d+)\s*$", re.MULTILINE)


def boot(system: Path, arguments: list[str]) -> int:
    """Boot the machine with the root ``system``, run the tests in it and return their exit status."""
    kernel, initrd = (max((system / "boot").glob(pattern)) for pattern in ("vmlinuz-*", "initrd.img-*"))
    (system / root.CHECKOUT / ".vm-arguments").write_text(shlex.join(arguments) + "\n")
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]
    command += ["-m", str(MEMORY_MIB), "-nographic", "-no-reboot", "-nic", "none"]
    command += ["-kernel", str(kernel), "-initrd", str(initrd)]
    command += ["-virtfs", f"local,path={system},mount_tag=checkout,security_model=none,readonly=on"]
    command += ["-append", f"{_ROOT} console=ttyS0 quiet panic=-1 init=/{root.CHECKOUT}/script/lib/vm-init"]
    said = b""
    with subprocess.Popen(
        [root.TOP / "script/isolated", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    ) as machine:
        while machine.stdout and (some := machine.stdout.read(4096)):
            os.write(1, some)
            said = said[-1000:] + some
    found = _STATUS.findall(said)
    return int(found[-1]) if found else 1


def main(arguments: list[str]) -> int:
    """Take the command line; see the top of this file."""
    try:
        if os.geteuid() != 0:
            raise root.RootError("making a Debian root needs root\nhint: run it with sudo")
        with root.warm(SUITE) as system:
            if root.enter(system, ["sh", "-c", _FILL], network=True):
                raise root.RootError("\n".join((system / "var/log/kernel.log").read_text().splitlines()[-15:]))
            if root.enter(system, ["script/setup", "--tests"], network=True):
                return 1
            return boot(system, arguments)
    except root.RootError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
