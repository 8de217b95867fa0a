"""Has a daemon call this process to hand off connections, and makes sure that it is the daemon which calls."""

from __future__ import annotations

import json
import os
import select
import socket
from pathlib import Path

from portfleet.daemons.answers import LONGEST, ControlError, read_done
from portfleet.daemons.exchange import Control
from portfleet.daemons.handing import Handing, HandingFailed
from portfleet.daemons.talk import dial
from portfleet.linux import processes, unix_socket

#: Seconds for the daemon's call, requests in flight included.
_CALL = 10.0


def called(place: Control, meeting: Path, count: int) -> tuple[Handing, socket.socket]:
    """Have the daemon at ``place`` hand off ``count`` connections to this process, at the socket ``meeting``.

    Return the socket by which it does, and the one by which it was told. Raises HandingFailed, ControlError, OSError.
    """
    command = {"command": "handoff", "to": str(meeting), "count": count, "listener": False, "names": False}
    with _listener(meeting) as listener:
        try:
            listener.settimeout(_CALL)
            control = dial(place)
            control.settimeout(_CALL)
            control.sendall(json.dumps(command | {"deadline": 5}).encode() + b"\n")
            ready = select.select([listener, control], [], [], _CALL)[0]
            if listener not in ready:
                raise HandingFailed(_refusal(control) if ready else "the daemon does not hand off")
            calling, _ = listener.accept()
        finally:
            meeting.unlink(missing_ok=True)
    if place.pid is None or not processes.within(unix_socket.peer(calling), place.pid):
        calling.close()
        raise HandingFailed("another process than the instance's has called")
    return Handing(calling), control


def _listener(meeting: Path) -> socket.socket:
    """Return what the daemon is to call: in its user's own directory (0700), otherwise for this user alone (0600).

    By umask, as a chmod(2) would follow a link that the user puts there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    meeting.unlink(missing_ok=True)
    before = os.umask(0o177 if meeting.parent.stat().st_mode & 0o077 else 0)
    try:
        listener.bind(str(meeting))
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _refusal(control: socket.socket) -> str:
    """Return what a daemon says that does not begin a hand-off."""
    try:
        read_done(control.recv(LONGEST).partition(b"\n")[0])
    except ControlError as error:
        return f"the daemon refuses: {error}"
    return "the daemon does not hand off"
