"""The bars of latency share on the page, as numbers and colours; templates/latency_bars.svg.j2 draws them."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.report.contract import OperatorChoice
from tvm_mpq.report.text import is_number, number, percent

SHOWN = 42
"""Letters of a name that fit."""

# By weight bits, from dark (few) to light; floats apart. Chosen to differ in lightness too, for readers who see no hue.
COLOURS = {"fp32": "#b8bec6", "bf16": "#d9c9a3", "w8a8": "#8ab6e6", "w4a8": "#2f6fb5"}
OTHER = "#123a66"


@dataclass(frozen=True)
class Bar:
    """One operator. relative_length: 1 for the longest bar; value: its share and its microseconds, as text."""

    name: str
    short_name: str
    relative_length: float
    colour: str
    value: str


def latency_bars(operators: list[OperatorChoice]) -> list[Bar]:
    """One bar an operator, in their order."""
    times_us = [float(o["latency_us"]) if is_number(o.get("latency_us")) else 0.0 for o in operators]
    total, longest = sum(times_us), max(times_us, default=0.0)
    bars = []
    for operator, time_us in zip(operators, times_us, strict=True):
        name = str(operator.get("name"))
        bars.append(
            Bar(
                name,
                name if len(name) <= SHOWN else "…" + name[-(SHOWN - 1) :],
                time_us / longest if longest > 0 else 0.0,
                colour(str(operator.get("precision"))),
                f"{percent(time_us / total) if total > 0 else '-'} · {number(time_us)} µs",
            )
        )
    return bars


def legend(operators: list[OperatorChoice]) -> list[tuple[str, str]]:
    """Each precision that occurs, and its colour."""
    return [(label, colour(label)) for label in sorted({str(o.get("precision")) for o in operators})]


def colour(label: str) -> str:
    return COLOURS.get(label, OTHER)
