"""Writes the pages: HTML by templates that escape every value, with headers that keep out all that is not ours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from portfleet.core.printable import quantity
from portfleet.metrics.ask import Entry
from portfleet.metrics.view import HEIGHT, WIDTH, View, tone
from portfleet.store.templating import DIRECTORY

_FOLDER = DIRECTORY / "page"
#: Everything of the page comes from this server, no script stands in it, and no other page may hold it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: The pages of orders run no script at all, and send forms here alone. With no referrer browsers send no Origin either.
ORDER_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
}
#: The files beside it, with their types.
FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


def html(view: View, events: Sequence[Entry], host: str) -> str:
    """Return the page of a view and the latest events, the newest first; ``host`` is this box's name."""
    template = _templates().get_template("page.html")
    known = {"view": view, "cells": view.cells, "lines": view.lines, "events": events}
    return template.render(known, host=host, size=(WIDTH, HEIGHT), quantity=quantity)


def order_html(name: str, **known: object) -> str:
    """Return one of the pages of orders: ``name`` of a template in the folder ``order``, and what that shows."""
    return _templates().get_template(f"order/{name}.html").render(known, tone=tone)


@cache
def asset(name: str) -> bytes:
    """Return one of `FILES`."""
    return (_FOLDER / name).read_bytes()


@cache
def _templates() -> Environment:
    loader = FileSystemLoader(_FOLDER)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
