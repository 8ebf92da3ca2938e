"""Charts as small SVG texts, drawn by hand: no library, no script, no fetch.

Every shape carries a class and no colour: the page or the PDF brings the style sheet. All charts are 360 units wide, so
that their words stay legible on a phone; kinds differ in lightness and dash too, so that they do in black and white.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
BAR, BAR_GAP, GROUP_GAP = 11, 3, 16


@dataclass(frozen=True, slots=True)
class Bar:
    """One measured value; `low` and `high` bound its interval where there is one; `text` is what is printed."""

    kind: str
    value: float | None
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True, slots=True)
class BarGroup:
    """Bars that are compared with each other."""

    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A curve; points with an undefined value break it."""

    kind: str
    label: str
    points: tuple[tuple[float, float | None], ...]


def bars(groups: Sequence[BarGroup], *, legend: Sequence[tuple[str, str]], alt: str, maximum: float = 100.0) -> str:
    """Horizontal bars 0..maximum with interval whiskers, groups one under the other."""
    left, right, top = 10.0, WIDTH - 44.0, 26.0
    scale = (right - left) / maximum
    parts, y = [_legend(legend)], top
    for group in groups:
        parts.append(_text(left, y + 10, group.label, "label"))
        y += 16
        for bar in group.bars:
            parts.append(_bar(bar, left, y, scale, maximum))
            y += BAR + BAR_GAP
        y += GROUP_GAP - BAR_GAP
    bottom = y - GROUP_GAP / 2
    grid = [_grid_x(left + tick * scale, top, bottom, _short(tick)) for tick in _ticks(0, maximum, 4)]
    return _svg(bottom + 22, alt, [*grid, *parts])


def lines(series: Sequence[Line], *, x_label: str, y_label: str, alt: str, mark: float | None = None) -> str:
    """Curves over a common x axis; `mark` draws a vertical line (the checkpoint that was kept)."""
    left, right, top, bottom = 44.0, WIDTH - 12.0, 40.0, 196.0
    points = [(x, y) for line in series for x, y in line.points if y is not None and math.isfinite(y)]
    if not points:
        return ""
    (x0, x1), (y0, y1) = _span([x for x, _ in points]), _padded([y for _, y in points])
    at_x = _scale(x0, x1, left, right)
    at_y = _scale(y0, y1, bottom, top)
    parts = [_legend([(f"line-{line.kind}", line.label) for line in series])]
    parts += [_grid_y(left, right, at_y(tick), _short(tick)) for tick in _ticks(y0, y1, 4)]
    parts += [_text(at_x(tick), bottom + 15, _short(tick), "tick mid") for tick in _ticks(x0, x1, 5)]
    if mark is not None and x0 <= mark <= x1:
        parts.append(_rule(at_x(mark), top, at_x(mark), bottom, "mark"))
        side = "end" if at_x(mark) > (left + right) / 2 else ""
        parts.append(_text(at_x(mark) + (-4 if side else 4), top - 4, f"kept: step {_short(mark)}", f"tick {side}"))
    parts += [_path(line, at_x, at_y) for line in series]
    parts.append(_text((left + right) / 2, bottom + 31, x_label, "tick mid"))
    parts.append(_text(4, 34, y_label, "tick"))
    return _svg(bottom + 38, alt, parts)


def heat(labels: Sequence[str], matrix: Sequence[Sequence[float | None]], *, alt: str) -> str:
    """A square of shares 0..1: rows carry number and name, columns the number only, so that many sets fit."""
    count = len(labels)
    left, top = 136.0, 22.0
    cell = min((WIDTH - left - 8) / max(count, 1), 52.0)
    parts = [_text(left + (j + 0.5) * cell, top - 7, str(j + 1), "tick mid") for j in range(count)]
    for i, row in enumerate(matrix):
        middle = top + (i + 0.5) * cell
        parts.append(_text(left - 8, middle + 4, f"{labels[i]}  {i + 1}", "label end"))
        parts += [_cell(left + j * cell, top + i * cell, cell, value) for j, value in enumerate(row)]
    return _svg(top + count * cell + 6, alt, parts)


def _bar(bar: Bar, left: float, y: float, scale: float, maximum: float) -> str:
    middle = y + BAR / 2
    if bar.value is None:
        return _text(left + 3, y + BAR - 1.5, bar.text, "tick")
    end = left + _clamp(bar.value, 0.0, maximum) * scale
    parts = [f'<rect class="bar bar-{escape(bar.kind)}" x="{_n(left)}" y="{_n(y)}" width="{_n(max(end - left, 0.8))}" '
             f'height="{BAR}"/>']
    if bar.low is not None and bar.high is not None:
        low, high = (left + _clamp(edge, 0.0, maximum) * scale for edge in (bar.low, bar.high))
        parts.append(_rule(low, middle, high, middle, "whisker"))
        parts += [_rule(edge, middle - 3, edge, middle + 3, "whisker") for edge in (low, high)]
    parts.append(_text(WIDTH - 2, y + BAR - 1.5, bar.text, "value end"))
    return "".join(parts)


def _cell(x: float, y: float, size: float, value: float | None) -> str:
    share = 0.0 if value is None or not math.isfinite(value) else _clamp(value, 0.0, 1.0)
    tone = "hot" if share > 0.75 else "cold"
    text = "–" if value is None else f"{share:.2f}"
    place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(size)}" height="{_n(size)}"'
    return (
        f'<rect class="cell-ground" {place}/><rect class="cell" fill-opacity="{share:.3f}" {place}/>'
        + _text(x + size / 2, y + size / 2 + 4, text, f"mid {tone}")
    )


def _path(line: Line, at_x: _Place, at_y: _Place) -> str:
    pieces, pen = [], "M"
    for x, y in line.points:
        if y is None or not math.isfinite(y):
            pen = "M"
            continue
        pieces.append(f"{pen}{_n(at_x(x))} {_n(at_y(y))}")
        pen = "L"
    return f'<path class="curve line-{escape(line.kind)}" d="{"".join(pieces)}"/>'


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    parts, x = [], 10.0
    for kind, label in entries:
        if kind.startswith("line-"):
            parts.append(f'<path class="curve {escape(kind)}" d="M{_n(x)} 10L{_n(x + 16)} 10"/>')
        else:
            parts.append(f'<rect class="bar bar-{escape(kind)}" x="{_n(x)}" y="5" width="11" height="10"/>')
        width = 22 if kind.startswith("line-") else 16
        parts.append(_text(x + width, 14, label, "tick"))
        x += width + 14 + 5.6 * len(label)
    return "".join(parts)


class _Place:
    """A linear map from values to positions."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.start = low, start
        self.rate = (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.rate


def _scale(low: float, high: float, start: float, end: float) -> _Place:
    return _Place(low, high, start, end)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1, high + 1)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = _span(values)
    room = (high - low) * 0.05
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within low..high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid_x(x: float, top: float, bottom: float, label: str) -> str:
    return _rule(x, top, x, bottom, "grid") + _text(x, bottom + 14, label, "tick mid")


def _grid_y(left: float, right: float, y: float, label: str) -> str:
    return _rule(left, y, right, y, "grid") + _text(left - 5, y + 4, label, "tick end")


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind.strip()}" x="{_n(x)}" y="{_n(y)}">{escape(text)}</text>'


def _svg(height: float, alt: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {_n(height)}" role="img" '
        f'aria-label="{escape(alt)}">{"".join(parts)}</svg>'
    )


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _short(value: float) -> str:
    return f"{value:g}"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
