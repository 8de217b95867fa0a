"""Orders by the page, by real requests from another box: who is refused, what is shown before, and what is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.browsing import Answer, Browser, Form
from support.counted import counted
from support.fleet_box import HOME, FleetBox, fleet_box
from support.held import dialled
from support.operated import TOLD, history
from support.sandbox import CLIENT4, HOST4, wait_for

pytestmark = pytest.mark.both_planes

GIVEN = "correct-horse-battery-staple"
_PAGE = '[metrics]\nlisten = ":9797"\n[page]\ntoken_file = "page.token"\n'
CONFIG = TOLD.replace("rate = 5", 'deadline = "90s"\nthen = "evict"') + _PAGE
_SOURCES = [f"198.18.0.{number + 1}" for number in range(12)]


@pytest.fixture(scope="module")
def box(plane: str) -> Iterator[FleetBox]:
    with fleet_box() as made:
        made.write(CONFIG)
        write_token(made, GIVEN)
        made.portfleet("up")
        wait_for("the page takes orders", lambda: b"/orders" in page(made).encode())
        yield made


def write_token(box: FleetBox, text: str, mode: str = "600") -> None:
    path = f"{HOME}/page.token"
    box.boxes.host.run("sh", "-c", f"cat > {path} && chown {box.owner} {path} && chmod {mode} {path}", text=text)


def page(box: FleetBox) -> str:
    done = box.boxes.clients.run("curl", "-sS", "-m", "10", f"http://{HOST4}:9797/", check=False)
    return done.stdout


def logged_in(box: FleetBox) -> tuple[Browser, Answer]:
    browser = Browser(box.boxes.clients)
    shown = browser.log_in(GIVEN)
    assert shown.status == 200 and shown.form("/orders/log-out"), shown
    return browser, shown


def planned(browser: Browser, verb: str, target: str) -> Answer:
    """Return the plan of an order, by the button on the page."""

    def button() -> Form | None:
        found = [form for form in browser.get("/orders").forms() if form[1].items() >= wanted.items()]
        return found[0] if found else None

    wanted = {"verb": verb, "target": target}
    return browser.send(wait_for(f"{verb} {target} is offered", button))


def confirmed(browser: Browser, plan: Answer) -> Answer:
    return browser.send(plan.form("/orders/confirm"))


def told(box: FleetBox, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind."""
    lines = box.portfleet("events", "--json").stdout.splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def ended(box: FleetBox, verb: str) -> dict[str, Any]:
    """Return the last operation when none runs; AssertionError if it is not of ``verb``."""

    def calm() -> bool:
        return not json.loads(box.portfleet("history", "--json").stdout)["running"]

    wait_for("operations have ended", calm)
    last = history(box)[-1]
    assert last["verb"] == verb, last
    return last


def test_a_plan_is_shown_before_a_drain_and_says_how_many_connections(box: FleetBox) -> None:
    browser, _ = logged_in(box)
    with dialled(box.boxes.clients, (HOST4, 7000), _SOURCES):
        count = counted(box, len(_SOURCES))["echo-blue-1"]
        words = f"{count} connections: they may finish for 90 s, then those left are closed"

        def told_so() -> Answer | None:
            made = planned(browser, "drain", "echo/echo-blue-1")
            return made if words in made.said else None

        plan = wait_for(words, told_so)
        assert plan.status == 200 and "Would drain echo-blue-1." in plan.said, plan
        assert box.status()["echo-blue-1"]["wanted"] == "serving", "a plan does nothing"
        assert confirmed(browser, plan).status == 200
        assert box.status()["echo-blue-1"]["wanted"] == "drained"
        again = browser.send(plan.form("/orders/confirm"))
        assert again.status == 409 and "confirmed already" in again.body, again
        plan = planned(browser, "cancel", "echo")
        assert "echo-blue-1 then as before it" in plan.said, plan.said
        assert confirmed(browser, plan).status == 200
    assert ended(box, "drain")["ok"] is False
    last = told(box, "page-order")[-1]
    assert last["order"] == "cancel echo" and last["service"] == "echo", last
    assert last["operator"] == f"page {CLIENT4}@host" == history(box)[-1]["who"], last


def test_drain_undrain_and_rollback(box: FleetBox) -> None:
    browser, _ = logged_in(box)
    confirmed(browser, planned(browser, "drain", "echo/echo-blue-2"))
    assert ended(box, "drain")["ok"] is True
    plan = planned(browser, "undrain", "echo/echo-blue-2")
    assert "let echo-blue-2 serve again" in plan.said, plan.said
    confirmed(browser, plan)
    assert ended(box, "undrain")["ok"] is True
    assert "nothing to go back to" in planned(browser, "rollback", "echo").said
    box.portfleet("cutover", "echo", "--release", "v2")
    plan = planned(browser, "rollback", "echo")
    assert "roll echo back to blue" in plan.said, plan.said
    confirmed(browser, plan)
    assert ended(box, "rollback")["ok"] is True


def test_what_a_plan_does_not_show_is_not_done(box: FleetBox) -> None:
    browser, _ = logged_in(box)
    plan = planned(browser, "drain", "echo/echo-blue-1")
    box.portfleet("drain", "echo/echo-blue-2", "--no-wait")
    refused = confirmed(browser, plan)
    assert refused.status == 409 and "has changed since" in refused.said, refused
    assert box.status()["echo-blue-1"]["wanted"] == "serving"
    plan = planned(browser, "drain", "echo/echo-blue-1")
    assert "with no serving instance" in plan.said and plan.forms() == [], "what needs --force is not offered"
    box.portfleet("undrain", "echo/echo-blue-2")
    ended(box, "undrain")


def test_orders_are_four_and_about_what_there_is(box: FleetBox) -> None:
    browser, shown = logged_in(box)
    form = shown.form("/orders/plan", verb="drain", target="echo/echo-blue-1")
    for verb, target in (
        ("down", "echo"), ("maint", "echo/echo-blue-1"), ("drain", "echo"), ("drain", "echo/1"), ("", ""),
        ("drain", "--force"), ("cancel", "--help"), ("rollback", "echo --to 1"), ("drain", "echo/echo-blue-1\n--force"),
    ):  # fmt: skip
        answer = browser.send(form, verb=verb, target=target)
        assert answer.status == 409 and answer.forms() == [], (verb, target, answer)


def test_who_has_no_session_no_form_or_comes_from_elsewhere_is_refused(box: FleetBox) -> None:
    browser, shown = logged_in(box)
    form = shown.form("/orders/plan", verb="drain", target="echo/echo-blue-1")
    plan = browser.send(form)
    stranger = Browser(box.boxes.clients)
    assert stranger.send(form).status == 403, "a form of another session"
    assert browser.send(form, form_token="0" * 64).status == 403
    assert browser.send((form[0], {"verb": "drain", "target": "echo/echo-blue-1"})).status == 403
    for origin in ("http://evil.example", f"http://{HOST4}:80", "null", ""):
        other = Browser(box.boxes.clients, cookie=browser.cookie, origin=origin or "null")
        assert other.send(plan.form("/orders/confirm")).status == 403, origin
    assert browser.send(plan.form("/orders/confirm"), "Host: evil.example").status == 421
    assert browser.send(form, "Content-Type: text/plain").status == 415
    assert browser.send(form, target="x" * 5000).status == 413
    for path in ("/orders/plan", "/orders/confirm", "/orders/log-in", "/orders/log-out"):
        assert browser.get(path).status == 405
    confirm = plan.form("/orders/confirm")
    assert browser.get(f"/orders?ticket={confirm[1]['ticket']}&verb=drain").status == 200
    assert box.status()["echo-blue-1"]["wanted"] == "serving", "not one of them was done"
    assert browser.send(shown.form("/orders/log-out")).status == 303
    assert Browser(box.boxes.clients, cookie=browser.cookie).send(plan.form("/orders/confirm")).status in (401, 403)


def test_the_cookie_and_the_headers(box: FleetBox) -> None:
    browser = Browser(box.boxes.clients)
    answer = browser.send(browser.get("/orders").form("/orders/log-in"), token=GIVEN)
    cookie = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/orders"} <= {*cookie} and GIVEN not in cookie[0]
    shown = browser.get("/orders")
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "form-action 'self'" in policy and "script" not in policy
    assert (shown.headers["referrer-policy"], shown.headers["cache-control"]) == ("same-origin", "no-store")


def test_wrong_tokens_are_told_and_limited_and_another_token_ends_sessions(box: FleetBox) -> None:
    browser, _ = logged_in(box)
    guesser = Browser(box.boxes.clients)
    answers = [guesser.log_in(f"wrong-{number}") for number in range(6)]
    assert [answer.status for answer in answers] == [403] * 6
    assert "the token is wrong" in answers[0].body and "too many wrong tokens" in answers[5].body
    assert "too many wrong tokens" in guesser.log_in(GIVEN).body, "the right one does not help now"
    assert len(wait_for("it is told", lambda: told(box, "page-refused"))) == 1
    assert browser.get("/orders").form("/orders/log-out"), "who is logged in goes on"
    write_token(box, "another-horse-battery-staple")
    assert browser.get("/orders").form("/orders/log-in")
    write_token(box, "another-horse-battery-staple", mode="644")
    assert "may be read by other users (mode 0644" in browser.get("/orders").body
    assert "may be read by other users" in wait_for("it is told", lambda: told(box, "page-token"))[-1]["reason"]
    done = box.portfleet("check", check=False)
    assert done.returncode == 2 and "page.token_file" in done.stderr and "chmod 600" in done.stderr, done
    write_token(box, "short")
    assert "24 to 200 characters" in box.portfleet("check", check=False).stderr


def test_without_a_token_file_the_page_is_read_only(box: FleetBox) -> None:
    browser = Browser(box.boxes.clients)
    box.write(CONFIG.replace('token_file = "page.token"', ""))
    box.portfleet("apply")
    wait_for("the page offers nothing", lambda: "/orders" not in page(box))
    answer = browser.get("/orders")
    assert answer.status == 409 and "read-only" in answer.body and answer.forms() == []
    assert browser.send(("/orders/log-in", {"token": GIVEN})).status == 409
