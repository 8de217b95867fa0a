"""The page as values: its history, what it shows, that nothing in a name becomes part of it, and what is sent."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import re
import socket
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from portfleet.metrics.ask import Told
from portfleet.metrics.history import History, Series
from portfleet.metrics.live import Live
from portfleet.metrics.look import Look, Looks
from portfleet.metrics.page import FILES, HEADERS, html
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
    shown = [{"time": "now", "level": "error", "words": HOSTILE, "service": HOSTILE, "number": 1}]
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


def test_the_page_is_there_before_the_first_look() -> None:
    first = Live(Looks(Path("/x")), Path("/x")).view
    assert "the first look is under way" in html(first, [], "host")


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
    moments = [look(), replace(look(at=_AT + 1), connections={}), look(requests=5, at=_AT + 2), look(instances=4)]
    found = asyncio.run(streamed(moments))
    assert kinds(found) == ["patch", "patch", "structure", "patch"]
    first = json.loads(found[0].split("data: ")[1])["cells"]
    assert "service-0-blue-1.connections" in first and "service-0-blue-1.slots" not in first, "only what has changed"


def test_a_page_of_another_structure_or_of_long_ago_is_told_to_load_anew() -> None:
    assert kinds(asyncio.run(streamed([look(), look(instances=4)]))) == ["structure"]
    assert kinds(asyncio.run(streamed([look(), look()], since="1.000"))) == ["structure"]
    assert kinds(asyncio.run(streamed([look()] * 2))) == [], "a page that is as it should be is told nothing"


def kinds(found: list[str]) -> list[str]:
    return [line.removeprefix("event: ") for text in found for line in text.splitlines() if "event: " in line]


async def streamed(moments: list[Look], *, since: str = "") -> list[str]:
    """Return what a viewer gets who has the page of the first of ``moments`` and comes after the second one."""
    waiting = iter(moments)

    class Given(Looks):
        def now(self) -> Look:
            return next(waiting)

    live = Live(Given(Path("/x")), Path("/x"))
    await live.look()
    since = since or live.view.name
    await live.look()
    found: list[str] = []

    async def follow() -> None:
        async for text in live.stream(since):
            found.append(text)

    viewer = asyncio.create_task(follow())
    await asyncio.sleep(0)  # one turn of the loop, in which the stream begins; no time passes
    for _ in moments[2:]:
        await live.look()
    with suppress(TimeoutError):
        await asyncio.wait_for(viewer, 0.2)
    return found


def test_a_scrape_is_a_look_for_the_page_too_unless_one_is_open() -> None:
    async def scraped() -> list[str]:
        class Given(Looks):
            def now(self) -> Look:
                return look()

        live = Live(Given(Path("/x")), Path("/x"))
        await live.look()
        seen = [live.view.name]
        for at in (_AT + 5, _AT + 10, _AT + 5):  # a slow client's scrape may end last
            await live.scraped(look(at=at))
            seen.append(live.view.name)
        stream = live.stream("")
        await anext(stream)
        await live.scraped(look(at=_AT + 15))
        return [*seen, live.view.name]

    assert asyncio.run(scraped()) == [f"{at:.3f}" for at in (_AT, _AT + 5, _AT + 10, _AT + 10, _AT + 10)]


def test_a_viewer_that_reads_nothing_costs_no_memory_and_loads_anew() -> None:
    async def behind() -> list[str]:
        number = iter(range(1000))

        class Given(Looks):
            def now(self) -> Look:
                return look(at=_AT + next(number))

        live = Live(Given(Path("/x")), Path("/x"))
        stream = live.stream("")
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
        packed = asked(port, "/", **{"Accept-Encoding": "gzip, deflate"})
        stream = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        stream.request("GET", "/stream")
        first = stream.getresponse().readline()
        stream.close()
    assert {name: answer.status for name, (answer, _) in answers.items()} == {
        "": 200, "metrics": 200, "nothing": 404, "page.html": 404, "page.css": 200, "page.js": 200, "icon.svg": 200
    }  # fmt: skip
    policy = answers[""][0].getheader("Content-Security-Policy")
    assert (policy, first) == (HEADERS["Content-Security-Policy"], b"event: structure\n"), "it named no view"
    assert packed[0].getheader("Content-Encoding") == "gzip" and b"service-0-blue-1" in gzip.decompress(packed[1])
    assert len(packed[1]) < len(answers[""][1]) / 4
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
    port: int, path: str, *, method: str = "GET", host: str = "localhost", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:  # fmt: skip
    """Return the answer to a request and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={"Host": host, **headers})
    answer = connection.getresponse()
    return answer, answer.read()


def test_the_structure_is_the_same_while_only_numbers_change() -> None:
    def structure(**changes: Any) -> tuple[Any, ...]:
        made: View = view(look(**changes), History())
        return made.structure

    assert structure() == structure(requests=7)
    assert structure() != structure(instances=4) and structure() != structure(services=1)


def test_the_dot_of_a_service_turns_as_soon_as_an_instance_is_ejected() -> None:
    made = look()
    assert made.told is not None
    (first, *others) = made.told.instances
    hurt = replace(made, told=replace(made.told, instances=(first | {"state": "ejected"}, *others)))
    assert view(made, History()).structure != view(hurt, History()).structure


def told_of(one: Entry) -> Entry:
    """Return an instance without what it said of itself, as of another daemon."""
    return one | {"said": None}


def test_a_daemon_that_tells_nothing_has_connections_and_no_rates() -> None:
    made = look()
    assert made.told is not None
    silent = Look(_AT, Told(1, made.told.fleet, tuple(map(told_of, made.told.instances))), "", made.connections)
    shown = view(silent, History())
    assert (shown.cells["service-0-blue-1.connections"], shown.cells["service-0-blue-1.rate"]) == ("10", "–")
