"""A picture of points over two axes, in pixels of its own; templates/scatter.svg.j2 draws it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm_mpq.report.text import number

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 92, 24, 44, 64
"""Margins: wide enough for the larger letters of small screens."""


@dataclass(frozen=True)
class Mark:
    """A point. kind: its class in the style sheet; title: shown when it is pointed at; label: written beside it."""

    x: float
    y: float
    kind: str
    title: str
    label: str = ""


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in pixels, and what is written there."""

    place: float
    text: str


@dataclass(frozen=True)
class Line:
    """A vertical line, in pixels, with its name."""

    place: float
    name: str


@dataclass(frozen=True)
class Scatter:
    """Everything in pixels. path: of marks joined by a line."""

    marks: list[Mark]
    path: list[tuple[float, float]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    x_name: str
    y_name: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def scatter(
    marks: Sequence[Mark],
    x_name: str,
    y_name: str,
    *,
    joined: str = "",
    limits: Sequence[tuple[float, str]] = (),
) -> Scatter:
    """Place marks: x on a linear axis, y on a logarithmic one, at whose foot values of 0 and below stand.

    joined: kind of the marks that a line joins, by rising x. limits: vertical lines, in units of x.
    """
    xs = [m.x for m in marks] + [x for x, _ in limits]
    low, high = min(xs), max(xs)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - pad, high + pad
    place_x = _linear(low, high, LEFT, WIDTH - RIGHT)
    place_y, y_ticks = _logarithmic([m.y for m in marks])
    placed = [Mark(place_x(m.x), place_y(m.y), m.kind, m.title, m.label) for m in marks]
    path = sorted((m.x, m.y) for m in placed if m.kind == joined)
    steps = [Tick(place_x(x), number(x)) for x in _round_steps(low, high)]
    return Scatter(placed, path, steps, y_ticks, [Line(place_x(x), name) for x, name in limits], x_name, y_name)


def _linear(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _logarithmic(values: Sequence[float]) -> tuple[Callable[[float], float], list[Tick]]:
    positive = [v for v in values if v > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    foot = HEIGHT - BOTTOM
    first = foot - 26 if any(v <= 0 for v in values) else foot  # room for zeros
    scale = _linear(low, high, first, TOP + 8)
    every = max(1, math.ceil((high - low) / 6))
    ticks = [Tick(scale(e), f"{10.0**e:g}" if e > -4 else f"1e{e}") for e in range(low, high + 1, every)]
    zeros = [Tick(foot, "0")] if first != foot else []
    return (lambda value: scale(math.log10(value)) if value > 0 else foot), zeros + ticks


def _round_steps(low: float, high: float) -> list[float]:
    """Four to eight round numbers within a range.

    >>> _round_steps(0.11, 0.87)
    [0.2, 0.4, 0.6, 0.8]
    """
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = min((size * m for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]
