"""A browser's requests to the page, from the clients' box: with its cookie, its Origin and the forms of pages."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode

from support.sandbox import HOST4, Box

#: What a page's form is sent to, and its fields.
Form = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """HTTP's status, the headers by lower-case name, and the body."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def said(self) -> str:
        """What a plan or an outcome says."""
        found = re.search(r'<pre class="said">(.*?)</pre>', self.body, re.DOTALL)
        return html.unescape(found[1]) if found else ""

    def forms(self) -> list[Form]:
        """Return the forms in the order of the page."""
        return _Forms(self.body).found

    def form(self, action: str, **fields: str) -> Form:
        """Return the one form that is sent to ``action`` and has ``fields``; ValueError if there is not one."""
        (found,) = [form for form in self.forms() if form[0] == action and fields.items() <= form[1].items()]
        return found


class _Forms(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[Form] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append((values["action"], {}))
        elif tag == "input" and {"name", "value"} <= values.keys():
            self.found[-1][1][values["name"]] = values["value"]


@dataclass
class Browser:
    """One browser in ``box``; it keeps its cookie."""

    box: Box
    port: int = 9797
    cookie: str = ""
    origin: str = field(default="")

    def __post_init__(self) -> None:
        self.origin = self.origin or f"http://{HOST4}:{self.port}"

    def get(self, path: str) -> Answer:
        """Ask for a page."""
        return self._ask(path)

    def send(self, form: Form, *headers: str, **changes: str) -> Answer:
        """Send a form as a browser does; with other fields, or further headers."""
        fields = urlencode({**form[1], **changes})
        words = [word for header in (f"Origin: {self.origin}", *headers) for word in ("-H", header)]
        return self._ask(form[0], "--data-raw", fields, *words)

    def log_in(self, token: str) -> Answer:
        """Give a token in the form that asks for it; return the page that follows."""
        answer = self.send(self.get("/orders").form("/orders/log-in"), token=token)
        return self.get("/orders") if answer.status == 303 else answer

    def _ask(self, path: str, *words: str) -> Answer:
        given = ("-H", f"Cookie: {self.cookie}") if self.cookie else ()
        done = self.box.run("curl", "-sS", "-i", "-m", "20", *given, *words, f"http://{HOST4}:{self.port}{path}")
        head, _, body = done.stdout.partition("\n\n")
        status, *lines = head.splitlines()
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if "set-cookie" in headers:
            self.cookie = headers["set-cookie"].partition(";")[0]
        return Answer(int(status.split()[1]), headers, body)
