"""How operations' options are read from the command line."""

from __future__ import annotations

import argparse

from portfleet.config.reader import parse_duration


def duration(text: str) -> float:
    """Read a duration such as 10m, in seconds; 0 is 0."""
    try:
        return 0.0 if text == "0" else parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write 30s, 10m, 1h") from None


def rate(text: str) -> int:
    """Read a rate such as 500 or 500/s, per second."""
    number = text.removesuffix("/s")
    if not number.isascii() or not number.isdigit() or int(number) == 0:
        raise argparse.ArgumentTypeError(f'"{text}" is not a rate; write 500 or 500/s')
    return int(number)


def percent(text: str) -> int:
    """Read a share such as 25%."""
    number = text.removesuffix("%")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= 100:
        raise argparse.ArgumentTypeError(f'"{text}" is not a share; write 1% … 100%')
    return int(number)


def percents(text: str) -> list[int]:
    """Read shares such as 25%,100%."""
    return [percent(part) for part in text.split(",")]


def errors(text: str) -> float:
    """Read an error share in per cent, such as 1% or 0.5%."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
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
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f'"{text}" is not a factor; write 2x')
    return value
