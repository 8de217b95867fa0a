"""How operations' options are read from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from portfleet.config.reader import parse_duration
from portfleet.core.digits import decimal, whole

N = TypeVar("N", int, float)


def duration(text: str) -> float:
    """Read a duration such as 10m, in seconds; 0 is 0."""
    try:
        return 0.0 if text == "0" else parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write 30s, 10m, 1h") from None


def number(text: str) -> int:
    """Read a whole number, 0 or more."""
    try:
        return whole(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def rate(text: str) -> int:
    """Read a rate such as 500 or 500/s, per second."""
    found = _or(0, whole, text.removesuffix("/s"))
    if found == 0:
        raise argparse.ArgumentTypeError(f'"{text}" is not a rate; write 500 or 500/s')
    return found


def percent(text: str) -> int:
    """Read a share such as 25%."""
    found = _or(0, whole, text.removesuffix("%"))
    if not 1 <= found <= 100:
        raise argparse.ArgumentTypeError(f'"{text}" is not a share; write 1% … 100%')
    return found


def percents(text: str) -> list[int]:
    """Read shares such as 25%,100%."""
    return [percent(part) for part in text.split(",")]


def errors(text: str) -> float:
    """Read an error share in per cent, such as 1% or 0.5%."""
    value = _or(-1.0, decimal, text.removesuffix("%"))
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f'"{text}" is not a share; write 1%')
    return value


def limit(text: str) -> float:
    """Read a max/mean such as 1.1, at least 1."""
    value = factor(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is below 1, which no max/mean can be; write 1.1')
    return value


def factor(text: str) -> float:
    """Read a factor such as 2x."""
    value = _or(0.0, decimal, text.removesuffix("x"))
    if value == 0:
        raise argparse.ArgumentTypeError(f'"{text}" is not a factor; write 2x')
    return value


def _or(otherwise: N, read: Callable[[str], N], text: str) -> N:
    """Return what ``read`` makes of ``text``, ``otherwise`` if that is no number."""
    try:
        return read(text)
    except ValueError:
        return otherwise
