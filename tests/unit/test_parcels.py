"""Messages of a hand-off that are only passed on: records stay whole, whatever is in them, and nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.daemons.parcels import ACK, CONNECTIONS, Improper, Inbox, chosen, pack, records
from portfleet_daemon.handoff import wire

PARCELS = st.lists(
    st.builds(
        wire.Parcel,
        partial=st.binary(max_size=20),
        unsent=st.binary(max_size=20),
        state=st.none() | st.binary(max_size=9),
        eof=st.booleans(),
        peer=st.sampled_from([b"", bytes([4]) + bytes(18)]),
    ),
    max_size=6,
)


@given(PARCELS, st.sampled_from(wire.VERSIONS), st.sets(st.integers(0, 5)))
def test_the_records_of_the_daemons_are_told_apart(parcels: list[wire.Parcel], version: int, places: set[int]) -> None:
    body = wire.pack_parcels(parcels, version=version)

    found = records(body, len(parcels))

    assert found == [wire.pack_parcels([parcel], version=version) for parcel in parcels]
    kept = [parcel for place, parcel in enumerate(parcels) if place in places]
    assert chosen(found, places) == wire.pack_parcels(kept, version=version)


@given(PARCELS, st.integers(1, 30))
def test_a_body_that_is_cut_off_is_refused(parcels: list[wire.Parcel], cut: int) -> None:
    body = wire.pack_parcels(parcels, version=2)
    for wrong in (body[:-cut], body + bytes(cut)):
        if wrong != body:
            with pytest.raises(Improper):
                records(wrong, len(parcels))


@given(st.lists(st.binary(max_size=30), max_size=4), st.integers(1, 9))
def test_messages_are_put_together_from_pieces(bodies: list[bytes], size: int) -> None:
    data = b"".join(pack(CONNECTIONS, count=1, sequence=n, body=body) for n, body in enumerate(bodies))
    inbox, found = Inbox(), []
    for at in range(0, len(data), size):
        inbox.feed(data[at : at + size])
        while (message := inbox.take()) is not None:
            found.append(message.body)
    assert found == bodies


def test_an_acknowledgement_is_as_the_page_has_it() -> None:
    assert pack(ACK, count=1, sequence=1) == bytes.fromhex("10 00 00 01  00 00 00 01  00 00 00 00")


def test_a_message_that_is_too_long_is_refused() -> None:
    inbox = Inbox()
    inbox.feed(bytes.fromhex("02 00 00 01  00 00 00 01  7f ff ff ff"))
    with pytest.raises(Improper):
        inbox.take()
