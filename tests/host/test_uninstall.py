"""The commands of docs/deploy.md's last section leave nothing of ours, and nothing else is touched."""

from __future__ import annotations

import re

import pytest

from deploy import ANSIBLE, Ansible
from nspawn import Host
from support.booted import ask

pytestmark = pytest.mark.host

OTHERS = "table ip others {\n\tchain nat {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\t}\n}\n"


def test_uninstall_and_install_again(deployed: dict[str, Host], ansible: Ansible) -> None:
    two = deployed["two"]
    text = (ANSIBLE.parent / "docs/deploy.md").read_text()
    found = re.search(r"^## Uninstall\n\n((?:    .*\n)+)", text, re.MULTILINE)
    assert found is not None
    two.run(f"printf '{OTHERS}' | nft -f -")
    try:
        for command in found[1].splitlines():
            two.run(command)
        assert two.run("nft list ruleset").stdout == OTHERS
        left = two.run("find / -xdev -name '*portfleet*' -not -path '/proc/*' -not -path '/sys/*'").stdout.split()
        assert [path for path in left if not path.startswith(("/var/log/journal", "/run/systemd"))] == []
        assert two.run("id portfleet", check=False).returncode != 0
        assert two.run("systemctl is-enabled redis-server", check=False).stdout != "masked\n"
        assert ask(two) == [None]
    finally:
        two.run("nft delete table ip others")
        again = ansible.play("site.yml", "--limit", "two")
    assert again.code == 0, again.output
    assert ask(two, message="hello\n") == ["v1 hello"]
