"""The page as values: its history, what it shows, that nothing in a name becomes part of it, and what is sent."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from portfleet.metrics.ask import Told
from portfleet.metrics.history import History, Series
from portfleet.metrics.live import Live
from portfleet.metrics.look import Look, Looks
from portfleet.metrics.page import FILES, HEADERS, ORDER_HEADERS, html, order_html
from portfleet.metrics.view import View, points, view
from support.page_server import HOSTILE, fleet, page_server
from support.sandbox import wait_for
from support.seen import Entry

_AT = 1_770_000_000.0


def look(*, at: float = _AT, services: int = 2, instances: int = 3, requests: int = 0) -> Look:
    found, told = fleet(services, instances)
    for one in told:
        one["said"] |= {"requests": one["said"]["requests"] + requests}
    return Look(at, Told(1, found, tuple(told)), "", {one["name"]: 10 for one in told})


class Page(HTMLParser):
    """The elements of a page: their tags and ids, and the text of each id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]


def page() -> Page:
    history = History()
    for number in range(4):
        history.note(look(at=_AT + 5 * number, requests=50 * number))
    shown = [{"time": "now", "level": "error", "words": HOSTILE, "service": HOSTILE}]
    return Page(html(view(look(), history, now=_AT + 20), shown, HOSTILE))


def test_no_name_becomes_an_element_or_an_attribute() -> None:
    found = page()
    assert found.tags.count("script") == 1 and "img" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "style"]


def test_each_id_is_there_once_and_each_cell_has_an_element() -> None:
    found, shown = page(), view(look(), History())
    assert len(found.ids) == len({*found.ids})
    assert {*shown.cells, *shown.lines} <= {*found.ids}


def test_nothing_comes_from_elsewhere() -> None:
    addresses = [value or "" for name, value in page().attributes if name in ("src", "href")]
    assert addresses and all(address.startswith(("/", "#")) for address in addresses)
    assert "default-src 'none'" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    script = (Path(__file__).parents[2] / "templates/page/page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)


def test_it_can_be_used_by_keyboard_and_screen_reader() -> None:
    found = page()
    labelled = [value for name, value in found.attributes if name == "aria-labelledby"]
    assert {*labelled} <= {*found.ids} and len(labelled) == found.tags.count("section")
    assert found.tags.count("h1") == 1 and "main" in found.tags and ("lang", "en") in found.attributes
    assert sum(name == "scope" for name, _ in found.attributes) == found.tags.count("th")
    assert sum(name == "aria-label" for name, _ in found.attributes) >= found.tags.count("svg")


def test_colours_stand_side_by_side_with_what_they_did_in_the_last_minute() -> None:
    history = History()
    for number in range(13):
        history.note(look(at=_AT + 5 * number, requests=100 * number))
    shown = view(look(), history, now=_AT + 60)
    (service, *_) = shown.services
    assert [(one["colour"], one["role"]) for one in service["colours"]] == [("blue", "live"), ("green", "canary")]
    assert shown.cells["service-0.blue.rate"] == "60" and shown.cells["service-0.green.rate"] == "40"
    assert "20,000 needed" in shown.cells["service-0.operation"] and shown.cells["service-0.progress"] == "22"


def test_without_a_watcher_the_page_says_so() -> None:
    shown = html(view(Look(_AT, trouble="the watcher does not answer"), History()), [], "host")
    assert "the watcher does not answer" in shown and "There is no service" in shown


def test_a_counter_that_begins_anew_and_a_gap_are_no_rate() -> None:
    series = Series()
    for at, requests in ((0, 100), (5, 200), (10, 20), (15, 70), (20, None), (25, 90)):
        series.note(float(at), 1, requests)
    assert list(series.rates) == [None, 20.0, None, 10.0, None, None]


def test_a_line_ends_at_the_right_and_its_highest_point_at_the_top() -> None:
    assert points([0, 5, 10], 10) == "58,15 59,8 60,1"
    assert points([], 0) == ""


def test_fifteen_minutes_are_sixty_points_and_instances_that_go_are_forgotten() -> None:
    history = History()
    for number in range(400):
        history.note(look(at=_AT + 5 * number, requests=10 * number))
    connections, rates = history.lines("service-0-blue-1")
    assert len(connections) == len(rates) == 60 and {*rates} == {2.0}
    history.note(look(services=1))
    assert history.lines("service-1-blue-1") == ([], [])


def test_a_viewer_gets_what_changes_and_is_told_of_another_structure() -> None:
    moments = [look(), look(requests=5, at=_AT + 1), look(instances=4)]
    found = asyncio.run(streamed(moments))
    kinds = [line.removeprefix("event: ") for text in found for line in text.splitlines() if "event: " in line]
    assert kinds == ["patch", "patch", "structure", "patch"]
    first, second = (json.loads(text.split("data: ")[1]) for text in found[:2])
    assert {*second["cells"]} < {*first["cells"]}


async def streamed(moments: list[Look]) -> list[str]:
    """Return what a viewer gets who comes after the first of ``moments``."""
    waiting = iter(moments)

    class Given(Looks):
        def now(self) -> Look:
            return next(waiting)

    live = Live(Given(Path("/x")), Path("/x"))
    await live.look()
    stream = live.stream()
    found = [await anext(stream)]
    for _ in moments[1:]:
        await live.look()
    while True:
        try:
            found.append(await asyncio.wait_for(anext(stream), 0.2))
        except TimeoutError:
            return found


def test_a_viewer_that_reads_nothing_costs_no_memory_and_loads_anew() -> None:
    async def behind() -> list[str]:
        number = iter(range(1000))

        class Given(Looks):
            def now(self) -> Look:
                return look(at=_AT + next(number))

        live = Live(Given(Path("/x")), Path("/x"))
        stream = live.stream()
        await anext(stream)
        for _ in range(20):
            await live.look()
        return [await anext(stream) for _ in range(4)]

    assert any("event: structure" in text for text in asyncio.run(behind()))


def test_the_process_answers_by_http() -> None:
    with page_server(port := free_port(), 2, 3):
        wait_for("it answers", lambda: answers_with(port, b"service-0-blue-1"))
        answers = {name: asked(port, f"/{name}") for name in ("", "metrics", "nothing", "page.html", *FILES)}
        refused, elsewhere = asked(port, "/", method="POST"), asked(port, "/", host="evil.example")
        stream = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        stream.request("GET", "/stream")
        first = stream.getresponse().readline()
        stream.close()
    assert {name: answer.status for name, (answer, _) in answers.items()} == {
        "": 200, "metrics": 200, "nothing": 404, "page.html": 404, "page.css": 200, "page.js": 200, "icon.svg": 200
    }  # fmt: skip
    policy = answers[""][0].getheader("Content-Security-Policy")
    assert (policy, first) == (HEADERS["Content-Security-Policy"], b"event: patch\n")
    assert (refused[0].status, elsewhere[0].status) == (405, 421)


def answers_with(port: int, words: bytes) -> bool:
    try:
        return words in asked(port, "/")[1]
    except ConnectionRefusedError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def asked(
    port: int, path: str, *, method: str = "GET", host: str = "localhost"
) -> tuple[http.client.HTTPResponse, bytes]:  # fmt: skip
    """Return the answer to a request and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={"Host": host})
    answer = connection.getresponse()
    return answer, answer.read()


def test_the_structure_is_the_same_while_only_numbers_change() -> None:
    def structure(**changes: Any) -> tuple[Any, ...]:
        made: View = view(look(**changes), History())
        return made.structure

    assert structure() == structure(requests=7)
    assert structure() != structure(instances=4) and structure() != structure(services=1)


def told_of(one: Entry) -> Entry:
    """Return an instance without what it said of itself, as of another daemon."""
    return one | {"said": None}


def test_a_daemon_that_tells_nothing_has_connections_and_no_rates() -> None:
    made = look()
    assert made.told is not None
    silent = Look(_AT, Told(1, made.told.fleet, tuple(map(told_of, made.told.instances))), "", made.connections)
    shown = view(silent, History())
    assert (shown.cells["service-0-blue-1.connections"], shown.cells["service-0-blue-1.rate"]) == ("10", "–")


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


def test_the_page_leads_to_orders_only_while_they_are_taken() -> None:
    made = look()
    assert made.told is not None
    for taken in (False, True):
        seen = replace(made, told=replace(made.told, fleet=made.told.fleet | {"takes_orders": taken}))
        assert ('href="/orders"' in html(view(seen, History()), [], "host")) is taken
