"""Connections as bytes: what is packed is unpacked, whatever its queues hold; and whose a frame is."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.core.frozen import Flow, Frozen, pack, unpack
from portfleet.daemons import box_answers
from portfleet.dataplane.nft import held_frames, moved_flows
from portfleet.linux.lines import StreamEnded
from support.fuzz_relocation import FROZEN

U32, INT, PORT, QUEUE = (
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**31 - 1),
    st.integers(1, 65535),
    st.binary(max_size=9),
)
KEEPALIVE = st.integers(1, 32767)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    size = draw(st.sampled_from([4, 16]))
    client, dialled = draw(st.binary(min_size=size, max_size=size)), draw(st.binary(min_size=size, max_size=size))
    return Flow(client, draw(PORT), dialled, draw(PORT), dialled, draw(PORT))


CONNECTIONS = st.lists(
    st.builds(
        Frozen,
        flow=flows(),
        mss=INT,
        send_scale=st.integers(0, 15),
        receive_scale=st.integers(0, 15),
        timestamp=U32,
        window=st.tuples(U32, U32, U32, U32, U32),
        receive_first=U32,
        send_first=U32,
        received=QUEUE,
        sent=QUEUE,
        unsent=QUEUE,
        keepalive=st.none() | st.tuples(KEEPALIVE, KEEPALIVE, KEEPALIVE),
        user_timeout=INT,
        send_buffer=INT,
        receive_buffer=INT,
    ),
    max_size=4,
)


@given(CONNECTIONS)
def test_what_is_packed_is_unpacked(connections: list[Frozen]) -> None:
    assert unpack(pack(connections)) == connections


def test_a_frame_is_of_the_connection_that_its_headers_say() -> None:
    ports = struct.pack("!HH", 40001, 7000)
    four = bytes(12) + b"\x08\x00" + b"\x46" + bytes(8) + b"\x06" + bytes(2) + b"\x7f\0\0\x09" + b"\x7f\0\0\x01"
    assert held_frames.key_of(four + bytes(4) + ports) == moved_flows.moving(FROZEN.flow), "with an option of IP"
    six = bytes(12) + b"\x86\xdd" + bytes(6) + b"\x06\x40" + bytes([1] * 16) + bytes([2] * 16)
    assert held_frames.key_of(six + ports) == moved_flows.key(bytes([1] * 16), 40001, bytes([2] * 16), 7000)
    for other in (b"", four, six, four.replace(b"\x06\0\0", b"\x11\0\0"), bytes(60)):
        assert held_frames.key_of(other) is None


@pytest.mark.parametrize("asked", [[1], ["ab"], [["zz", 1]], [["7f000001", []]], [["7f000001", 1, 2]], [{"a": 1}]])
def test_a_question_after_what_is_no_client_ends_the_stream(asked: object) -> None:
    with pytest.raises(StreamEnded, match="no client"):
        box_answers.clients(asked)
