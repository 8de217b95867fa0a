"""Plots as SVG text: bars, and lines over a logarithmic axis. Readable on dark and on light (prefers-color-scheme).

The same values give the same bytes, so that a plot in the checkout can be compared with one that is written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, ROW, TOP, LABELS, RIGHT = 760, 22, 58, 190, 130
_STYLE = """\
<style>
  svg { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
  .ground { fill: #ffffff; } text { fill: #24292f; } .quiet { fill: #57606a; }
  .title { font-size: 15px; font-weight: 600; } .grid { stroke: #d0d7de; }
  .axis, .range { stroke: #57606a; } .range { stroke-width: 1.5; }
  .c0 { fill: #0969da; stroke: #0969da; } .c1 { fill: #bc4c00; stroke: #bc4c00; }
  .c2 { fill: #1a7f37; stroke: #1a7f37; } .c3 { fill: #8250df; stroke: #8250df; }
  .other { fill: #8c959f; stroke: #8c959f; }
  path.line { fill: none; stroke-width: 2; } rect.bar { stroke: none; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; } text { fill: #e6edf3; } .quiet { fill: #9198a1; }
    .grid { stroke: #30363d; } .axis, .range { stroke: #9198a1; }
    .c0 { fill: #58a6ff; stroke: #58a6ff; } .c1 { fill: #f0883e; stroke: #f0883e; }
    .c2 { fill: #3fb950; stroke: #3fb950; } .c3 { fill: #bc8cff; stroke: #bc8cff; }
    .other { fill: #6e7681; stroke: #6e7681; }
  }
</style>
"""
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "12 4", "4 6")


@dataclass(frozen=True)
class Bar:
    """One bar: its value with the range over the rounds, if there were any. ``colour`` is a class of the style."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: str = "other"


def number(value: float) -> str:
    """Return a value as a reader wants it: three significant digits, thousands apart."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - floor(log10(abs(value))))}f}"


def bars(title: str, unit: str, groups: Mapping[str, Sequence[Bar]]) -> str:
    """Return horizontal bars from zero, in groups that have names unless there is one."""
    every = [bar for group in groups.values() for bar in group]
    most = max((max(bar.value, bar.high or 0) for bar in every), default=1.0) or 1.0
    ticks = _steps(most)
    span = WIDTH - LABELS - RIGHT

    def x(value: float) -> float:
        return LABELS + span * value / ticks[-1]

    parts, y = [], float(TOP)
    for name, group in groups.items():
        if name:
            parts.append(f'<text x="12" y="{y + 15:.0f}" class="quiet">{escape(name)}</text>')
            y += ROW
        for bar in group:
            parts.append(f'<text x="{LABELS - 8}" y="{y + 15:.0f}" text-anchor="end">{escape(bar.name)}</text>')
            length = x(bar.value) - LABELS
            where = f'x="{LABELS}" y="{y + 4:.0f}" width="{length:.1f}" height="14"'
            parts.append(f'<rect {where} class="bar {bar.colour}"/>')
            if bar.low is not None and bar.high is not None:
                parts.append(f'<path d="M{x(bar.low):.1f} {y + 11:.0f}H{x(bar.high):.1f}" class="range"/>')
            end = max(x(bar.value), x(bar.high or 0))
            parts.append(f'<text x="{end + 6:.1f}" y="{y + 15:.0f}">{number(bar.value)}</text>')
            y += ROW
        y += 8
    grid = [f'<path d="M{x(tick):.1f} {TOP}V{y:.0f}" class="grid"/>' for tick in ticks]
    grid += [_text(x(tick), y + 16, f"{tick:,g}", "middle") for tick in ticks]
    return _whole(title, unit, [*grid, *parts], y + 28)


def lines(title: str, unit: str, across: str, series: Mapping[str, Sequence[tuple[float, float]]],
          colours: Mapping[str, str]) -> str:  # fmt: skip
    """Return lines, each with its name at its end; both axes are logarithmic."""
    points = [point for some in series.values() for point in some]
    xs = sorted({one for one, _ in points})
    ys = [value for _, value in points]
    ticks = _powers(min(ys), max(ys))
    left, right, height = 70, 210, 360
    bottom = TOP + height

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * log10(value / xs[0]) / (log10(xs[-1] / xs[0]) or 1)

    def y(value: float) -> float:
        return bottom - height * log10(value / ticks[0]) / log10(ticks[-1] / ticks[0])

    parts = [f'<path d="M{left} {y(tick):.1f}H{WIDTH - right}" class="grid"/>' for tick in ticks]
    parts += [_text(left - 8, y(tick) + 4, f"{tick:,g}", "end") for tick in ticks]
    parts += [_text(x(one), bottom + 18, f"{one:,.0f}", "middle") for one in xs]
    parts.append(f'<path d="M{left} {bottom}H{WIDTH - right}" class="axis"/>')
    parts.append(_text((left + WIDTH - right) / 2, bottom + 36, across, "middle"))
    last = -1e9
    alike: dict[str, int] = {}
    for name, some in sorted(series.items(), key=lambda one: y(one[1][-1][1])):
        colour = colours.get(name, "other")
        dash = _DASHES[alike.setdefault(colour, 0) % len(_DASHES)]
        alike[colour] += 1
        path = "L".join(f"{x(one):.1f} {y(value):.1f}" for one, value in some)
        parts.append(f'<path d="M{path}" class="line {colour}" stroke-dasharray="{dash}"/>')
        parts += [f'<circle cx="{x(one):.1f}" cy="{y(value):.1f}" r="3" class="{colour}"/>' for one, value in some]
        last = max(last + 16, y(some[-1][1]))  # names one below the other, near the ends of their lines
        end, at = x(some[-1][0]), WIDTH - right + 30
        parts.append(f'<path d="M{end:.1f} {y(some[-1][1]):.1f}L{at - 4} {last:.1f}" class="grid"/>')
        parts.append(f'<text x="{at}" y="{last + 4:.1f}">{escape(name)}</text>')
    return _whole(title, unit, parts, max(bottom + 50, last + 14))


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="quiet">{escape(text)}</text>'


def _whole(title: str, unit: str, parts: Sequence[str], height: float) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">\n{_STYLE}<rect width="100%" height="100%" rx="6" class="ground"/>\n'
        f'<text x="12" y="24" class="title">{escape(title)}</text>\n'
        f'<text x="12" y="44" class="quiet">{escape(unit)}</text>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _steps(most: float) -> list[float]:
    """Return ticks from 0 past ``most``, 4 to 8 of them, at round numbers."""
    size = 10 ** floor(log10(most))
    step = next(size * part for part in (0.1, 0.2, 0.25, 0.5, 1, 2) if most / (size * part) <= 7)
    return [step * count for count in range(ceil(most / step) + 1)]


def _powers(least: float, most: float) -> list[float]:
    """Return ticks 1, 2, 5 of each decade from below ``least`` to above ``most``; fewer if there are many decades."""
    parts = (1, 2, 5) if most / least < 200 else (1, 10)
    every = [10.0**power * part for power in range(floor(log10(least)) - 1, ceil(log10(most)) + 1) for part in parts]
    every = sorted(set(every))
    begin = max(index for index, one in enumerate(every) if one <= least)
    end = min((index for index, one in enumerate(every) if one >= most), default=len(every) - 1)
    return every[begin : max(end, begin + 1) + 1]
