"""Chromium without a window, which takes orders over a pipe (Chrome DevTools Protocol, --remote-debugging-pipe)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.netns import network_of
from support.sandbox import Box, wait_for

Answer = dict[str, Any]
#: What the protocol wants to know of keys that are no characters: the code of the key, and the text that it makes.
_KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " "), "Escape": (27, "")}


class Chromium:
    """A headless browser in the caller's network, with its profile in ``folder``."""

    def __init__(self, folder: str) -> None:
        down, self._orders = os.pipe()
        self._answers, up = os.pipe()
        argv = [
            "bash", "-c", f'exec chromium "$@" 3<&{down} 4>&{up}', "sh", "--headless=new", "--no-sandbox",
            "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(argv, pass_fds=(down, up), stderr=subprocess.DEVNULL)
        os.close(down)
        os.close(up)
        self._number, self._rest = 0, b""
        #: What it told without being asked, the oldest first.
        self.told: list[Answer] = []

    def ask(self, method: str, session: str | None = None, **parameters: object) -> Answer:
        """Return the result of one order; raise RuntimeError if it is refused."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        os.write(self._orders, json.dumps(order | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                found = os.read(self._answers, 1 << 16)
                if not found:
                    raise RuntimeError("chromium has ended")
                self._rest += found
            line, _, self._rest = self._rest.partition(b"\0")
            said = json.loads(line)
            if "id" not in said:
                self.told.append(said)
            elif said["id"] == self._number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return dict(said["result"])

    @contextmanager
    def tab(self) -> Iterator[Tab]:
        """Return a new tab, with cookies of its own, which is closed after the block."""
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        try:
            yield Tab(self, session)
        finally:
            self.ask("Target.disposeBrowserContext", browserContextId=context)

    def close(self) -> None:
        """End it, with its other processes, which a kill leaves."""
        self.ask("Browser.close")
        self._process.wait()
        os.close(self._orders)
        os.close(self._answers)


@contextmanager
def chromium(box: Box | None = None) -> Iterator[Chromium]:
    """Return a browser in the network of ``box``, or in ours, until the end of the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if box is None:
            browser = Chromium(folder)
        else:
            with network_of(box):
                browser = Chromium(folder)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A tab: it goes to pages, is clicked and typed into as by people, and keeps all complaints of its pages."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session
        self._size: dict[str, object] = {}
        for domain in ("Page", "Network", "Runtime", "Log", "DOM", "Accessibility"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> Answer:
        """Return the result of an order to this tab."""
        return self._browser.ask(method, self._session, **parameters)

    def told(self, method: str) -> list[Answer]:
        """Return what the tab told of a kind so far."""
        return [
            one["params"]
            for one in self._browser.told
            if one["method"] == method and one.get("sessionId") == self._session
        ]

    def look(self, *, width: int, height: int, dark: bool = False, still: bool = False, phone: bool = False) -> None:
        """Have it be of a size, with what its user likes; a ``phone`` has a finger for a pointer."""
        self._size = {"width": width, "deviceScaleFactor": 1, "mobile": phone}
        self.ask("Emulation.setDeviceMetricsOverride", height=height, **self._size)
        self.ask("Emulation.setTouchEmulationEnabled", enabled=phone)
        likes = {"prefers-color-scheme": "dark" if dark else "light"}
        likes |= {"prefers-reduced-motion": "reduce" if still else "no-preference"}
        likes |= {"pointer": "coarse" if phone else "fine"}
        features = [{"name": name, "value": value} for name, value in likes.items()]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def scripts(self, *, on: bool) -> None:
        """Switch JavaScript of pages on or off."""
        self.ask("Emulation.setScriptExecutionDisabled", value=not on)

    def go(self, url: str) -> int:
        """Go to a page and wait until it is there; return HTTP's status."""
        return self._arrives(lambda: self.ask("Page.navigate", url=url))

    def click(self, selector: str) -> int:
        """Click in the middle of the one element of ``selector``, which leads to another page; return its status."""
        return self._arrives(lambda: self.touch(selector))

    def reload(self) -> int:
        """Load the page anew, which sends its form once more if it came by one; return HTTP's status."""
        return self._arrives(lambda: self.ask("Page.reload"))

    def touch(self, selector: str) -> None:
        """Click in the middle of the one element of ``selector``."""
        found = self.value(
            f"(all => {{ if (all.length != 1) return all.length; all[0].scrollIntoView({{block: 'center'}});"
            f" const box = all[0].getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})"
            f"(document.querySelectorAll({json.dumps(selector)}))"
        )
        assert isinstance(found, list), f"{found} elements are {selector}\n{self.text()}"
        for kind in ("mousePressed", "mouseReleased"):
            x, y = found
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key: a character, or one of `_KEYS`."""
        code, text = _KEYS.get(key, (ord(key.upper()[0]), key))
        known = {"key": key, "windowsVirtualKeyCode": code, "code": key if code in (9, 13, 27) else ""}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **known)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **known)

    def enter(self) -> int:
        """Press Enter, which leads to another page; return its status."""
        return self._arrives(lambda: self.press("Enter"))

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.ask("Input.insertText", text=text)

    def value(self, expression: str) -> Any:
        """Return what an expression is worth in the page, as JSON has it; raise RuntimeError if it throws."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def text(self) -> str:
        """Return what is to be read on the page."""
        return str(self.value("document.body.innerText"))

    def picture(self, path: Path) -> None:
        """Write all of the page, however long, as a PNG."""
        for _ in range(2):  # what is out of sight has an estimated height until it is seen
            height = self.value("document.documentElement.scrollHeight")
            self.ask("Emulation.setDeviceMetricsOverride", height=height, **self._size)
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def complaints(self) -> list[str]:
        """Return what the console has of the pages so far: errors, warnings, refusals by the policy (CSP)."""
        said = [f"{one['entry']['level']}: {one['entry']['text']}" for one in self.told("Log.entryAdded")]
        said += [f"thrown: {one['exceptionDetails']}" for one in self.told("Runtime.exceptionThrown")]
        said += [f"console.{one['type']}: {one['args']}" for one in self.told("Runtime.consoleAPICalled")]
        return said

    def _arrives(self, act: Any) -> int:
        """Do ``act`` and wait until the page that it leads to is there; return HTTP's status."""
        before = len(self.told("Page.loadEventFired"))
        act()

        def loaded() -> bool:
            self.value("1")  # has it tell what came
            return len(self.told("Page.loadEventFired")) > before

        wait_for("a page is there", loaded, seconds=30)
        documents = [one for one in self.told("Network.responseReceived") if one["type"] == "Document"]
        return int(documents[-1]["response"]["status"])


def paint(browser: Chromium, url: str) -> float:
    """Return the seconds from the begin of a navigation to its first contentful paint."""
    look = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)[0] || 0"
    with browser.tab() as tab:
        tab.ask("Page.navigate", url=url)
        return float(wait_for("the page is painted", lambda: tab.value(look), seconds=60)) / 1000
