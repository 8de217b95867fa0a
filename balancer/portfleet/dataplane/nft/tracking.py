"""How long conntrack must remember a connection that TCP has not ended: one table for doctor, the role and the docs.

The kernel forgets an entry when no packet has come for its state's time-out. What comes after that is dropped until
the watcher has made the entry again (restorer.py); without a watcher, and of an instance on another box, it is answered
by a reset. So each time-out must be longer than the longest silence that TCP allows in that state. Two things bound a
silence:

- whoever waits for an acknowledgement sends again after at most 120 s (TCP_RTO_MAX of linux/tcp.h);
- where neither side waits for one, only keepalive speaks, from net.ipv4.tcp_keepalive_time (7,200 s) on.

Names and defaults: Documentation/networking/nf_conntrack-sysctl.rst of Linux; states: nf_conntrack_proto_tcp.c.
`script/docs` writes the table into docs/network.md and ansible/roles/portfleet/templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "net.netfilter.nf_conntrack_tcp_"
#: TCP_RTO_MAX, in seconds: the longest that a sender waits until it sends again.
RTO_MAX = 120


@dataclass(frozen=True)
class Row:
    """One sysctl below `PREFIX`, in seconds or a switch.

    ``value``: what the role sets, None if any value does; ``over``: the silence that it must exceed, "keepalive" if
    that is for keepalive to say, None for a switch, which must be ``value``. ``holds``: the state in which it counts;
    ``why``: what bounds the silence; ``costs``: what a lower value, or the other one, does to clients.
    """

    name: str
    value: int | None
    default: int
    over: int | Literal["keepalive"] | None
    holds: str
    why: str
    costs: str = ""

    @property
    def sysctl(self) -> str:
        return PREFIX + self.name


_LATE = "what is sent again after a lost packet is dropped, and without a watcher the connection is reset"
_IDLE = "an idle connection that is forgotten has its next packet dropped, and without a watcher it is reset"
ROWS = (
    Row(
        "timeout_syn_sent", 120, 120, 64,
        "the client's SYN is on its way",
        "the last of 7 SYNs comes 64 s after the one before (tcp_syn_retries)",
        "a client's repeated SYN may go to another instance than its first",
    ),
    Row(
        "timeout_syn_recv", 60, 60, 32,
        "the server's SYN has been answered, the client's last ACK is missing",
        "the last of 6 answers comes 32 s after the one before (tcp_synack_retries)",
        "the answer to a slow client's handshake is not translated",
    ),
    Row("timeout_established", 86_400, 432_000, "keepalive", "both sides may speak", "only keepalive speaks", _IDLE),
    Row(
        "timeout_fin_wait", 300, 120, RTO_MAX,
        "one side has closed, the other has not acknowledged it",
        "the end is sent again after at most 120 s",
        _LATE,
    ),
    Row(
        "timeout_close_wait", 14_400, 60, "keepalive",
        "one side has closed (a half-close), the other goes on",
        "an answer may take as long as it likes; only keepalive speaks",
        "the answer to a client that has closed its side is dropped, and without a watcher it is lost",
    ),
    Row(
        "timeout_last_ack", 300, 30, RTO_MAX,
        "both sides have closed, the last end is not acknowledged",
        "the last data and the end are sent again after at most 120 s",
        "the end of the last answer is lost if the client was cut off for that long",
    ),
    Row(
        "timeout_time_wait", 120, 120, 60,
        "all is acknowledged",
        "Linux answers a repeated end for 60 s (TCP_TIMEWAIT_LEN)",
        "a client that repeats its end is answered with a reset",
    ),
    Row("timeout_close", 10, 10, 0, "a reset was seen", "nothing follows"),
    Row(
        "timeout_unacknowledged", 300, 300, RTO_MAX,
        "data is not acknowledged yet; replaces longer ones",
        "data is sent again after at most 120 s",
        _LATE,
    ),
    Row(
        "timeout_max_retrans", 300, 300, RTO_MAX,
        "data was sent again `max_retrans` times, or the receiver has no room; replaces longer ones",
        "data, and the question for room, are sent again after at most 120 s",
        _LATE,
    ),
    Row("max_retrans", None, 3, None, "a count, not a time", "`timeout_max_retrans` is long enough for any"),
    Row(
        "be_liberal", 1, 0, None,
        "a packet is outside the window that conntrack has seen",
        "a late packet, or one after packets that conntrack did not see, is TCP's to judge",
        "a late packet outside the TCP window is not translated back and resets its connection",
    ),
    Row("ignore_invalid_rst", None, 0, None, "a reset is outside the window", "TCP judges by itself"),
    Row(
        "loose", None, 1, None,
        "a packet in the middle of a connection that conntrack does not know",
        "whose it is, is asked of the sockets, not of conntrack",
    ),
)  # fmt: skip


def least(row: Row, *, keepalive: int) -> int | None:
    """Return the seconds that a time-out must exceed where keepalive speaks after ``keepalive``; None for a switch."""
    return keepalive if row.over == "keepalive" else row.over


def advised(row: Row, *, keepalive: int) -> int:
    """Return the value to set where keepalive speaks after ``keepalive`` seconds."""
    value = row.default if row.value is None else row.value
    return max(value, 2 * keepalive) if row.over == "keepalive" else value
