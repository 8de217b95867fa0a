"""Finds and fills the Jinja2 templates: the packaged ones, else the checkout's."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

_HERE = Path(__file__).parent


@cache
def _environment() -> jinja2.Environment:
    packaged = _HERE / "templates"
    directory = packaged if packaged.is_dir() else _HERE.parents[1] / "templates"
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (nft text and ini files are not HTML; values are validated by the config)
    )


def fill(template: str, **values: object) -> str:
    """Fill ``template`` (its path below templates/); raises jinja2.UndefinedError for a value left out."""
    return _environment().get_template(template).render(**values)
