"""Who is logged in to the page: how sessions begin and end, wrong tokens, and plans that are confirmed once."""

from __future__ import annotations

import pytest

from portfleet.core.errors import PortfleetError
from portfleet.watch.desk import why_refused
from portfleet.watch.sessions import IDLE, LONGEST, NoSession, Refused, Sessions, plain

KNOWN, ANOTHER = b"correct-horse-battery-staple", b"another-horse-battery-staple"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def log_in(sessions: Sessions, given: bytes = KNOWN, address: str = "192.0.2.1") -> str:
    return sessions.begin(given.decode(), token=KNOWN, address=address)


def test_each_log_in_is_a_session_of_its_own_and_only_its_end_ends_it() -> None:
    sessions = Sessions()
    one, other = log_in(sessions), log_in(sessions)
    assert one != other and KNOWN.decode() not in one
    sessions.end(one)
    with pytest.raises(NoSession):
        sessions.of(one, token=KNOWN)
    assert sessions.of(other, token=KNOWN)
    for held in ("", "x", other[:-1], other + "x", "\udcff"):
        with pytest.raises(NoSession):
            sessions.of(held, token=KNOWN)


def test_a_session_ends_unused_after_its_longest_time_and_with_its_token() -> None:
    sessions = Sessions(clock := Clock())
    used, unused = log_in(sessions), log_in(sessions)
    for _ in range(int(LONGEST / IDLE * 2) - 1):
        clock.now += IDLE / 2
        sessions.of(used, token=KNOWN)
    with pytest.raises(NoSession):
        sessions.of(unused, token=KNOWN)
    clock.now += IDLE / 2
    with pytest.raises(NoSession):
        sessions.of(used, token=KNOWN)
    held = log_in(sessions)
    for token in (ANOTHER, KNOWN):
        with pytest.raises(NoSession):
            sessions.of(held, token=token)


def test_no_number_of_sessions_or_plans_grows_without_end() -> None:
    sessions = Sessions()
    held = [log_in(sessions) for _ in range(100)]
    known = [one for one in held if one in held[-32:]]
    session = sessions.of(known[-1], token=KNOWN)
    with pytest.raises(NoSession):
        sessions.of(held[0], token=KNOWN)
    tickets = [sessions.offer(session, ("drain", "echo/echo-blue-1"), number) for number in range(20)]
    assert len(session.plans) == 8 and sessions.take(session, tickets[-1]).state == 19


def test_a_plan_is_confirmed_once_soon_and_by_its_own_session() -> None:
    sessions = Sessions(clock := Clock())
    mine, other = (sessions.of(log_in(sessions), token=KNOWN) for _ in range(2))
    ticket = sessions.offer(mine, ("drain", "echo/echo-blue-1"), "as it is")
    with pytest.raises(PortfleetError):
        sessions.take(other, ticket)
    assert sessions.take(mine, ticket).words == ("drain", "echo/echo-blue-1")
    with pytest.raises(PortfleetError, match="confirmed already"):
        sessions.take(mine, ticket)
    ticket = sessions.offer(mine, ("cancel", "echo"), "as it is")
    clock.now += 301
    with pytest.raises(PortfleetError, match="too long ago"):
        sessions.take(mine, ticket)


def wrong(sessions: Sessions, address: str) -> Refused:
    with pytest.raises(Refused) as error:
        log_in(sessions, ANOTHER, address)
    return error.value


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"),
        ("nonsense", "", "192.0.2.1"),
    ],
)
def test_wrong_tokens_of_one_network_keep_it_out_for_a_minute_and_no_other(one: str, same: str, other: str) -> None:
    sessions = Sessions(clock := Clock())
    found = [wrong(sessions, (one, same)[number % 2]) for number in range(5)]
    assert [error.first for error in found] == [True, False, False, False, False]
    with pytest.raises(Refused, match="too many wrong tokens; try again in 61 s"):
        log_in(sessions, address=same)
    assert log_in(sessions, address=other)
    clock.now += 61
    assert log_in(sessions, address=one)


def test_wrong_tokens_from_everywhere_are_limited_too() -> None:
    sessions = Sessions()
    held = log_in(sessions)
    for number in range(20):
        wrong(sessions, f"192.0.2.{number}")
    with pytest.raises(Refused, match="too many"):
        log_in(sessions, address="198.51.100.1")
    assert sessions.of(held, token=KNOWN), "who is logged in goes on"


def test_an_address_has_one_form() -> None:
    assert [plain(text) for text in ("::ffff:192.0.2.1", "2001:db8:0::1", "<b>", "")] == [
        "192.0.2.1", "2001:db8::1", "?", "?",
    ]  # fmt: skip


def test_an_order_that_failed_tells_why_and_not_what_it_said_before() -> None:
    said = "portfleet: no connections there\nportfleet: service echo is locked by root@host\nhint: wait for it\n"
    assert why_refused(said) == "service echo is locked by root@host"
    assert why_refused("the service has changed since this was shown") == "the service has changed since this was shown"
    assert why_refused("") == ""
