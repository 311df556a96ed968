"""Pictures as inline SVG text."""

from __future__ import annotations

from html import escape
from typing import Any

from tvm_mpq.report.text import is_number, number, percent

ROW = 20  # pixels per operator
LABEL = 300  # pixels for names
BAR = 420  # pixels of the longest bar
VALUE = 170  # pixels for numbers
SHOWN = 42  # letters of a name that fit

# By weight bits, from dark (few) to light; floats apart. Chosen to differ in lightness too, for readers who see no hue.
COLOURS = {"fp32": "#b8bec6", "bf16": "#d9c9a3", "w8a8": "#8ab6e6", "w4a8": "#2f6fb5"}
OTHER = "#123a66"


def latency_bars(operators: list[dict[str, Any]]) -> str:
    """One horizontal bar an operator: its share of the operators' summed latency, coloured by precision."""
    times = [float(o["latency_us"]) if is_number(o.get("latency_us")) else 0.0 for o in operators]
    total, longest = sum(times), max(times, default=0.0)
    height = ROW * (len(operators) + 2)
    width = LABEL + BAR + VALUE
    parts = [
        f'<svg role="img" aria-label="latency share per operator" viewBox="0 0 {width} {height}" '
        f'width="{width}" style="max-width:100%">'
    ]
    for i, (operator, time) in enumerate(zip(operators, times, strict=True)):
        name, label = str(operator.get("name")), str(operator.get("precision"))
        short = name if len(name) <= SHOWN else "…" + name[-(SHOWN - 1) :]
        y, colour = ROW * i, COLOURS.get(label, OTHER)
        length = BAR * time / longest if longest > 0 else 0.0
        share = percent(time / total) if total > 0 else "-"
        parts.append(
            f"<g><title>{escape(name)}</title>"
            f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(short)}</text>'
            f'<rect x="{LABEL}" y="{y + 3}" width="{length:.1f}" height="{ROW - 6}" fill="{colour}"/>'
            f'<text x="{LABEL + length + 6:.1f}" y="{y + 14}">{share} · {number(time)} µs</text></g>'
        )
    parts.append(_legend(sorted({str(o.get("precision")) for o in operators}), ROW * (len(operators) + 1)))
    return "\n".join([*parts, "</svg>"])


def _legend(labels: list[str], y: int) -> str:
    parts = []
    for i, label in enumerate(labels):
        x = LABEL + 90 * i
        parts.append(
            f'<rect x="{x}" y="{y + 3}" width="14" height="14" fill="{COLOURS.get(label, OTHER)}"/>'
            f'<text x="{x + 20}" y="{y + 14}">{escape(label)}</text>'
        )
    return "".join(parts)
