"""Finds and fills the Jinja2 templates: the packaged ones, else the checkout's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

_HERE = Path(__file__).parents[1]
_PACKAGED = _HERE / "templates"
#: Where the templates are.
DIRECTORY = _PACKAGED if _PACKAGED.is_dir() else _HERE.parents[1] / "templates"


@cache
def _environment() -> jinja2.Environment:
    import jinja2  # not for `status` and ejections: it takes as long to import as everything else they need

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(DIRECTORY),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        auto_reload=False,  # it would look at the file for each of 1,024 programs
        autoescape=False,  # noqa: S701 (rules and ini files are not HTML; values are validated by the config)
    )


def load_all() -> None:
    """Read and compile every template now, instead of at its first use; changes of the files have no effect then."""
    environment = _environment()
    for name in environment.list_templates(extensions=["j2"]):
        environment.get_template(name)


@cache
def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)


def fill(template: str, **values: object) -> str:
    """Fill ``template`` (its path below templates/); raises jinja2.UndefinedError for a value left out."""
    return _template(template).render(values)
