"""Print the systemd unit that starts the fleet at boot, with the path of this portfleet.

The fleet is that of /etc/portfleet/fleet.toml. The Debian package and the Ansible role bring it along; this is for
an installation by pip or pipx. Settings of one machine belong into a drop-in: systemctl edit portfleet
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.store.templating import DIRECTORY

EXAMPLES = (
    "portfleet unit > /etc/systemd/system/portfleet.service",
    "systemctl enable --now portfleet",
)
#: The program in the unit as it is kept: that of the Debian package and of the role.
_PACKAGED = "/opt/portfleet/bin/portfleet"
#: Hidden from the unit by its ProtectHome=.
_HIDDEN = ("/home", "/root", "/run/user")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace, context: Context) -> Exit:
    if context.paths.home is not None:
        raise PortfleetError(
            f"the unit runs the fleet of /etc/portfleet, not that of {context.paths.home}",
            hint="portfleet unit, without --home and PORTFLEET_HOME",
            code=Exit.USAGE,
        )
    program = Path(sys.executable).parent / "portfleet"
    if any(program.is_relative_to(folder) for folder in _HIDDEN):
        raise PortfleetError(
            f"{program} is below a home directory, which services and other users cannot read",
            hint="python3 -m venv /opt/portfleet && /opt/portfleet/bin/pip install portfleet",
            code=Exit.USAGE,
        )
    print((DIRECTORY / "system/portfleet.service").read_text().replace(_PACKAGED, str(program)), end="")
    return Exit.DONE
