"""What a test needs that root of a user namespace may not have; without it the test is skipped, saying so."""

from __future__ import annotations

import pytest

from portfleet.linux.machine import read_machine

#: Processes of a second user: a namespace made by an ordinary user without a range in /etc/subuid has root alone.
needs_another_user = pytest.mark.skipif(
    not read_machine().maps_user("nobody"), reason="becomes another user, and this user namespace has root alone"
)
