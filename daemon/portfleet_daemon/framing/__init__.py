"""Framings by name, and how to bring one's own: a class with the interface of `Framing`, named `module:Class`."""

from __future__ import annotations

from portfleet_daemon.framing.base import Framing, FramingError
from portfleet_daemon.framing.length import Length
from portfleet_daemon.framing.line import Line
from portfleet_daemon.framing.resp import Resp, RespError

FRAMINGS: dict[str, type[Framing]] = {framing.name: framing for framing in (Line, Length, Resp)}

__all__ = ["FRAMINGS", "Framing", "FramingError", "Length", "Line", "Resp", "RespError"]
