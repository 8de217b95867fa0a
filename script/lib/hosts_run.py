"""Two hosts deployed by site.yml, and a command beside them: `hosts_run.py COMMAND…`. See script/hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import deploy
import nspawn


def main(command: list[str]) -> int:
    """Boot, deploy, run ``command`` with ansible on its PATH and an inventory; give its exit status."""
    with nspawn.hosts(Path(os.environ["PORTFLEET_IMAGE"])) as hosts:
        folder = next(iter(hosts.values())).folder.parent
        ansible = deploy.Ansible(folder, hosts, Path(os.environ["PORTFLEET_WHEELS"]))
        done = ansible.play("site.yml")
        print(done.output)
        if done.code:
            return done.code
        names = "  ".join(f"{host.name}: {' '.join(host.ssh())}" for host in hosts.values())
        print(f"{names}\nansible-playbook release.yml …   # in {deploy.ANSIBLE}; ends with this shell", file=sys.stderr)
        return subprocess.run(command, env=ansible.environment(), cwd=deploy.ANSIBLE, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
