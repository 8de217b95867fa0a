"""A Vagrant box for libvirt, made from Debian packages: `vagrant_box.py FILE`. For machines that cannot fetch one.

The root of a test host (host_image.py) with a kernel, and the user vagrant with Vagrant's well-known key, as every box
has. The box's own Vagrantfile has libvirt load kernel and initrd from files, so the disk needs no boot loader and is
made without mounting anything.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import host_image
import root

SUITE = "bookworm"
DISK_MIB = 3072

_FILL = """
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends linux-image-amd64 initramfs-tools udev zstd
useradd --create-home --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant
install -d -m 700 -o vagrant -g vagrant /home/vagrant/.ssh
install -m 600 -o vagrant -g vagrant /tmp/vagrant.pub /home/vagrant/.ssh/authorized_keys
rm /tmp/vagrant.pub
printf '[Match]\\nName=e*\\n[Network]\\nDHCP=ipv4\\n' >/etc/systemd/network/80-dhcp.network
systemctl enable systemd-networkd
echo '/dev/vda / ext4 defaults 0 1' >/etc/fstab
echo debian >/etc/hostname
printf '127.0.0.1 localhost debian\\n::1 localhost\\n' >/etc/hosts
rm -f /etc/apt/apt.conf.d/90machine
"""

_VAGRANTFILE = """
Vagrant.configure("2") do |config|
  config.vm.provider :libvirt do |libvirt|
    libvirt.kernel = File.expand_path("vmlinuz", __dir__)
    libvirt.initrd = File.expand_path("initrd.img", __dir__)
    libvirt.cmd_line = "root=/dev/vda rw console=ttyS0 net.ifnames=0"
  end
end
"""


def public_key() -> str:
    """Return Vagrant's well-known insecure key, which `vagrant up` replaces by one of its own."""
    for folder in (Path("/usr/share/vagrant/keys"), Path("/usr/share/rubygems-integration/all/gems")):
        for file in folder.rglob("vagrant.pub"):
            return file.read_text()
    raise root.RootError("Vagrant's public key is not found\nhint: apt-get install vagrant")


def make(work: Path) -> None:
    """Fill the folder ``work`` with what a box holds."""
    system = work / "system"
    root.run("cp", "-a", "--reflink=auto", host_image.image(SUITE), system)
    (system / root.CHECKOUT).mkdir()
    (system / "tmp/vagrant.pub").write_text(public_key())
    if root.enter(system, ["sh", "-c", f"({_FILL}) >/var/log/image.log 2>&1"], network=True):
        raise root.RootError("\n".join((system / "var/log/image.log").read_text().splitlines()[-15:]))
    (system / root.CHECKOUT).rmdir()
    (system / "etc/resolv.conf").write_text("")
    for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd.img", "initrd.img-*")):
        (found,) = (system / "boot").glob(pattern)
        shutil.copyfile(found, work / name)
    root.run("truncate", "-s", f"{DISK_MIB}M", work / "disk.raw")
    root.run("mkfs.ext4", "-q", "-d", system, work / "disk.raw")
    root.run("qemu-img", "convert", "-O", "qcow2", work / "disk.raw", work / "box.img")
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_MIB // 1024}
    (work / "metadata.json").write_text(json.dumps(metadata))
    (work / "Vagrantfile").write_text(_VAGRANTFILE)


def box() -> Path:
    """Return the box, made where it is not there yet."""
    recipe = "".join((_FILL, _VAGRANTFILE, str(DISK_MIB), str(host_image.image(SUITE))))
    kept = root.cache() / f"vagrant-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.box"
    with root.locked("vagrant-box"):
        if not kept.exists():
            for old in root.cache().glob("vagrant-*.box"):
                old.unlink()
            with tempfile.TemporaryDirectory(prefix="vagrant-", dir=root.cache()) as work:
                make(Path(work))
                partial = Path(work, "partial.box")
                with tarfile.open(partial, "w") as file:
                    for name in ("metadata.json", "Vagrantfile", "vmlinuz", "initrd.img", "box.img"):
                        file.add(Path(work, name), arcname=name)
                partial.rename(kept)
    return kept


if __name__ == "__main__":
    try:
        print(box())
    except root.RootError as error:
        sys.exit(str(error))
