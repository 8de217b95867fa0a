"""Parameters of tests of which one form is run each time, and the others where what takes long is run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def forms(values: Iterable[Any], *often: Any) -> list[Any]:
    """Return ``values`` as parameters: `script/test` runs those in ``often``, or the first one, `--long` the others."""
    all_of_them = list(values)
    each_time = often or all_of_them[:1]
    assert all(value in all_of_them for value in each_time), f"{each_time} are not all of {all_of_them}"
    return [value if value in each_time else pytest.param(value, marks=pytest.mark.long) for value in all_of_them]
