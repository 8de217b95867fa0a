"""Chromium without a window, which takes orders over a pipe (Chrome DevTools Protocol, --remote-debugging-pipe)."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from benchmarks.lib.measure import wait_until


class Chromium:
    """A headless browser in the caller's network, with its profile in ``folder``."""

    def __init__(self, folder: str) -> None:
        down, self._orders = os.pipe()
        self._answers, up = os.pipe()
        argv = [
            "bash", "-c", f'exec chromium "$@" 3<&{down} 4>&{up}', "sh", "--headless=new", "--no-sandbox",
            "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(argv, pass_fds=(down, up), stderr=subprocess.DEVNULL)
        os.close(down)
        os.close(up)
        self._number, self._rest = 0, b""

    def ask(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """Return the result of one order."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        os.write(self._orders, json.dumps(order | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                found = os.read(self._answers, 1 << 16)
                if not found:
                    raise SystemExit("chromium has ended")
                self._rest += found
            line, _, self._rest = self._rest.partition(b"\0")
            said = json.loads(line)
            if said.get("id") == self._number:
                return dict(said["result"])

    def paint(self, url: str) -> float:
        """Return the seconds from the begin of a navigation to its first contentful paint."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.navigate", session, url=url)
        look = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)[0] || 0"

        def painted() -> float:
            return float(self.ask("Runtime.evaluate", session, expression=look)["result"]["value"])

        try:
            wait_until(lambda: painted() > 0, what="the page is painted", seconds=60)
            return painted() / 1000
        finally:
            self.ask("Target.closeTarget", targetId=target)

    def close(self) -> None:
        self.ask("Browser.close")  # with its other processes, which a kill leaves
        self._process.wait()
        os.close(self._orders)
        os.close(self._answers)
