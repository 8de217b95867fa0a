"""The pages of orders as text: what they offer, and that nothing in a name becomes part of them."""

from __future__ import annotations

import re
from dataclasses import replace

from portfleet.metrics.history import History
from portfleet.metrics.page import ORDER_HEADERS, html, order_html
from portfleet.metrics.view import view
from support.page_server import HOSTILE, fleet
from unit.test_page import Page, look


def test_pages_of_orders_hold_no_script_and_no_name_becomes_an_element() -> None:
    found, told = fleet(2, 3)
    services = [one | {"instances": [i for i in told if i["service"] == one["name"]]} for one in found["services"]]
    services[1] |= {"release": HOSTILE, "live": HOSTILE}
    texts = [
        order_html("log_in", error=HOSTILE),
        order_html("choose", services=services, trouble=HOSTILE, form_token=HOSTILE),
        order_html("plan", order=HOSTILE, text=HOSTILE, ticket=HOSTILE, form_token=HOSTILE),
        order_html("outcome", order=HOSTILE, text=HOSTILE, done=False),
        order_html("refused", error=HOSTILE, hint=HOSTILE),
    ]
    for shown in map(Page, texts):
        assert not {"script", "img", "iframe"} & {*shown.tags}
        assert not [name for name, _ in shown.attributes if name.startswith("on") or name == "style"]
        assert ("lang", "en") in shown.attributes and shown.tags.count("h1") == 1
        sent_to = [value or "" for name, value in shown.attributes if name in ("action", "href", "src")]
        assert sent_to and all(address.startswith("/") for address in sent_to)
        assert shown.tags.count("form") == [v for n, v in shown.attributes if n == "method"].count("post")
    policy = ORDER_HEADERS["Content-Security-Policy"]
    assert "script-src" not in policy and "form-action 'self'" in policy and "unsafe" not in policy


def test_while_an_operation_runs_only_what_can_be_done_then_is_offered() -> None:
    found, told = fleet(2, 3)
    services = [one | {"instances": [i for i in told if i["service"] == one["name"]]} for one in found["services"]]
    services += [services[1] | {"operation": found["services"][0]["operation"] | {"verb": "drain"}}]
    shown = [order_html("choose", services=[one], trouble="", form_token=HOSTILE) for one in services]
    assert [re.findall(r'name="verb" value="(\w+)"', text) for text in shown] == [
        ["cancel"], ["rollback", "drain", "undrain", "drain"], ["cancel", "undrain"]
    ]  # fmt: skip


def test_the_page_leads_to_orders_only_while_they_are_taken() -> None:
    made = look()
    assert made.told is not None
    for taken in (False, True):
        seen = replace(made, told=replace(made.told, fleet=made.told.fleet | {"takes_orders": taken}))
        assert ('href="/orders"' in html(view(seen, History()), [], "host")) is taken
