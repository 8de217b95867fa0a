"""Orders by the page in a real browser on a real fleet: by mouse, keyboard, without JavaScript, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.audited import SIZES, faults
from support.chromium import Chromium, Tab, chromium
from support.counted import counted
from support.fleet_box import HOME, FleetBox, fleet_box
from support.held import dialled
from support.operated import ANY_P99, TOLD
from support.sandbox import HOST4, wait_for
from support.watched import pid_of

pytestmark = pytest.mark.full

GIVEN = "correct-horse-battery-staple"
_PAGE = f"http://{HOST4}:9797"
_ORDERS = f"{_PAGE}/orders"
CONFIG = TOLD.replace("rate = 5", 'deadline = "90s"\nthen = "wait"') + (
    '[metrics]\nlisten = ":9797"\n[page]\ntoken_file = "page.token"\n'
)


@pytest.fixture(scope="module")
def box() -> Iterator[FleetBox]:
    with fleet_box() as made:
        made.write(CONFIG)
        write_token(made, GIVEN)
        made.portfleet("up")
        wait_for("the page takes orders", lambda: offers_orders(made))
        yield made


@pytest.fixture(scope="module")
def browser(box: FleetBox) -> Iterator[Chromium]:
    with chromium(box.boxes.clients) as made:
        yield made


@pytest.fixture
def tab(browser: Chromium) -> Iterator[Tab]:
    with browser.tab() as made:
        yield made


def write_token(box: FleetBox, text: str) -> None:
    script = f"umask 077 && cat > {HOME}/page.token"
    box.boxes.host.run("sh", "-c", script, text=text)


def offers_orders(box: FleetBox) -> bool:
    done = box.boxes.clients.run("curl", "-sS", "-m", "10", _PAGE, check=False)
    return 'href="/orders"' in done.stdout


def log_in(tab: Tab, token: str = GIVEN) -> int:
    """Log in, in a window of a desktop; return the status of the page that follows."""
    tab.look(width=1440, height=900)
    tab.go(_ORDERS)
    tab.touch("#token")
    tab.type(token)
    return tab.click("form button")


def button(verb: str, target: str) -> str:
    return f'button[aria-label="{verb} {target}"]'


def calm(box: FleetBox) -> None:
    """Wait until no operation runs."""
    wait_for("operations have ended", lambda: not json.loads(box.portfleet("history", "--json").stdout)["running"])


def offered(tab: Tab, verb: str, target: str) -> int:
    """Wait until the orders have a button, and click it; return the status of the plan."""

    def there() -> bool:
        tab.go(_ORDERS)
        return bool(tab.value(f"!!document.querySelector({json.dumps(button(verb, target))})"))

    wait_for(f"{verb} {target} is offered", there)
    return tab.click(button(verb, target))


def test_an_instance_is_drained_and_let_in_again_by_clicks(box: FleetBox, browser: Chromium, tab: Tab) -> None:
    with dialled(box.boxes.clients, (HOST4, 7000), [f"198.18.0.{number + 1}" for number in range(8)]) as held:
        there = counted(box, 8)["echo-blue-1"]
        assert log_in(tab) == 200 and offered(tab, "drain", "echo/echo-blue-1") == 200
        plan = tab.text()
        assert "Would drain echo-blue-1." in plan and "portfleet:" not in plan
        # A probe that is under way is one more.
        assert re.search(rf"^({there}|{there + 1}) connection", plan, re.MULTILINE), plan
        assert box.status()["echo-blue-1"]["wanted"] == "serving", "a plan does nothing"
        with browser.tab() as other:
            other.go(_PAGE)
            wait_for("the page is live", lambda: "live" in other.value("document.getElementById('live').textContent"))
            other.value("document.querySelector('summary').focus()")
            assert tab.click("button.does") == 200 and "Accepted: drain echo/echo-blue-1" in tab.text()
            state = "document.getElementById('echo-blue-1.state').textContent"
            wait_for("the open page shows it", lambda: other.value(state) == "draining")
            assert box.status()["echo-blue-1"]["state"] == "draining", "the page and status agree"
            for one in held:
                one.close()
            wait_for("and that it has ended", lambda: other.value(state) == "drained")
            assert other.value("document.activeElement.tagName") == "SUMMARY", "what came and went took no focus away"
            assert other.complaints() == []
    calm(box)
    assert offered(tab, "undrain", "echo/echo-blue-1") == 200 and tab.click("button.does") == 200
    box.wait_state("echo-blue-1", "ready")
    calm(box)
    assert tab.complaints() == []


@pytest.mark.parametrize("scripts", [True, False])
def test_by_the_keyboard_alone_with_and_without_javascript(box: FleetBox, tab: Tab, *, scripts: bool) -> None:
    tab.look(width=375, height=812)
    tab.scripts(on=scripts)
    tab.go(_PAGE)
    to_focus(tab, 'a[href="/orders"]')
    tab.enter()
    assert tab.value("document.activeElement.id") == "token", "one can type at once"
    tab.type(GIVEN)
    assert tab.enter() == 200
    to_focus(tab, button("drain", "echo/echo-blue-2"))
    assert tab.value("getComputedStyle(document.activeElement).outlineStyle") == "solid", "one sees where one is"
    assert tab.enter() == 200 and "Would drain echo-blue-2." in tab.text()
    to_focus(tab, "button.does")
    assert tab.enter() == 200
    assert box.status()["echo-blue-2"]["wanted"] == "drained"
    assert tab.complaints() == []
    calm(box)
    box.portfleet("undrain", "echo/echo-blue-2")


def to_focus(tab: Tab, selector: str) -> None:
    """Press Tab until the focus is on an element."""
    for _ in range(40):
        if tab.value(f"document.activeElement.matches({json.dumps(selector)})"):
            return
        tab.press("Tab")
    raise AssertionError(f"the keyboard does not get to {selector}\n{tab.text()}")


def test_a_cutover_is_cancelled_and_one_that_has_ended_is_rolled_back(box: FleetBox, tab: Tab) -> None:
    log_in(tab)
    box.portfleet("cutover", "echo", "--release", "v2", "--canary", "10", "--every", "10m", *ANY_P99, "--no-wait")
    assert offered(tab, "cancel", "echo") == 200 and "blue gets all new connections" in tab.text(), tab.text()
    assert tab.click("button.does") == 200
    calm(box)
    assert box.status()["echo-blue-1"]["state"] == "ready"
    box.portfleet("cutover", "echo", "--release", "v2")
    assert offered(tab, "rollback", "echo") == 200 and "roll echo back to blue" in tab.text()
    assert tab.click("button.does") == 200
    calm(box)
    assert json.loads(box.look("--json").stdout)["services"][0]["live"] == "blue"
    assert tab.complaints() == []


def test_who_has_no_session_is_asked_for_the_token(box: FleetBox, tab: Tab) -> None:
    assert tab.go(_ORDERS) == 200 and tab.value("document.activeElement.id") == "token"
    assert log_in(tab, "wrong") == 403 and "the token is wrong" in tab.text() and faults(tab) == []
    assert log_in(tab) == 200
    write_token(box, "another-horse-battery-staple")
    assert tab.click(button("drain", "echo/echo-blue-1")) == 401
    assert "this session has ended" in tab.text() and tab.value("!!document.getElementById('token')")
    write_token(box, GIVEN)


def test_a_form_counts_once_and_for_what_it_showed(box: FleetBox, tab: Tab) -> None:
    log_in(tab)
    offered(tab, "drain", "echo/echo-blue-2")
    assert tab.click("button.does") == 200
    assert tab.reload() == 409 and "confirmed already" in tab.text(), "it is not drained twice"
    calm(box)
    offered(tab, "undrain", "echo/echo-blue-2")
    box.portfleet("undrain", "echo/echo-blue-2")
    assert tab.click("button.does") == 409 and "has changed since" in tab.text() and faults(tab) == []


def test_without_a_watcher_the_pages_say_so(box: FleetBox, tab: Tab, tmp_path: Path) -> None:
    log_in(tab)
    supervisord, watcher = pid_of(box, "supervisord"), pid_of(box, "portfleet-watch")
    box.boxes.host.run("kill", "-STOP", str(supervisord))
    box.boxes.host.run("kill", "-KILL", str(watcher))
    try:
        assert tab.click(button("drain", "echo/echo-blue-1")) == 503
        assert "the watcher does not answer" in tab.text() and "Traceback" not in tab.text() and faults(tab) == []
        wait_for("the page says so", lambda: tab.go(_PAGE) == 200 and "the watcher does not answer" in tab.text())
        assert faults(tab) == []
    finally:
        box.boxes.host.run("kill", "-CONT", str(supervisord))
    wait_for("there is another watcher", lambda: tab.go(_ORDERS) == 200)
    assert "Log in" in tab.text(), "sessions have ended with it"


def test_everybody_can_read_and_hit_everything_at_each_size(box: FleetBox, tab: Tab, tmp_path: Path) -> None:
    wait_for("the page shows the fleet", lambda: tab.go(_PAGE) == 200 and "echo-blue-1" in tab.text())
    pages = {"page": _PAGE, "log-in": _ORDERS}
    for name, url in pages.items():
        tab.go(url)
        pictured(tab, tmp_path / name)
    log_in(tab)
    pictured(tab, tmp_path / "orders")
    tab.look(width=1440, height=900)
    tab.click(button("drain", "echo/echo-blue-1"))
    pictured(tab, tmp_path / "plan")
    tab.look(width=1440, height=900)
    tab.click("button.does")
    pictured(tab, tmp_path / "outcome")
    tab.go(_PAGE)
    pictured(tab, tmp_path / "drained")
    assert tab.complaints() == []
    calm(box)
    box.portfleet("undrain", "echo/echo-blue-1")


def pictured(tab: Tab, path: Path) -> None:
    """Write pictures of a page at each size, light and dark; AssertionError if anything on it cannot be used."""
    for name, (width, height, finger) in SIZES.items():
        for dark in (False, True):
            tab.look(width=width, height=height, dark=dark, phone=finger)
            tab.picture(path.with_name(f"{path.name}-{name}-{'dark' if dark else 'light'}.png"))
    assert faults(tab) == []
