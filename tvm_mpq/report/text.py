"""Numbers, sizes and workloads as short text. ASCII only, so that every terminal shows it."""

from __future__ import annotations

import math
import re
from typing import TypeGuard

NOTHING = "-"
"""Shown for what is not known, infinite or not a number."""


def is_number(value: object) -> TypeGuard[float]:
    """Whether value can be calculated with: neither None, nor NaN, nor infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def number(value: object, unit: str = "") -> str:
    """Three significant digits, no exponent between 0.001 and 10^6.

    >>> number(0.12345, " ms"), number(1234.5), number(2), number(None)
    ('0.123 ms', '1234', '2', '-')
    """
    if not is_number(value):
        return NOTHING
    size = abs(value)
    if value == int(value) and size < 1e6:
        text = str(int(value))
    elif 0.001 <= size < 1e6:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    else:
        text = f"{value:.2e}"
    return text + unit


def count(value: object) -> str:
    """Counts with k, M or G.

    >>> count(950), count(12_345), count(4_100_000_000)
    ('950', '12.3k', '4.10G')
    """
    if not is_number(value):
        return NOTHING
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return number(value / size) + letter
    return str(int(value))


def size(value: object) -> str:
    """Bytes in decimal units, as budgets are given in.

    >>> size(999), size(125_400), size(2_500_000)
    ('999 B', '125 kB', '2.50 MB')
    """
    if not is_number(value):
        return NOTHING
    if value < 1e3:
        return f"{int(value)} B"
    return number(value / 1e3, " kB") if value < 1e6 else number(value / 1e6, " MB")


def cache(value: object) -> str:
    """Cache sizes in binary units: `48K`, `1.25M`."""
    if not is_number(value):
        return NOTHING
    return f"{value / 2**10:g}K" if value < 2**20 else f"{value / 2**20:g}M"


def percent(share: object, *, signed: bool = False) -> str:
    """0.123 as `12.3 %`."""
    return f"{100 * share:{'+' if signed else ''}.1f} %" if is_number(share) else NOTHING


def ratio(a: object, b: object) -> float | None:
    """a / b where that means something."""
    return a / b if is_number(a) and is_number(b) and b > 0 else None


def times(factor: float | None) -> str:
    """A factor: `1.25x`."""
    return f"{factor:.2f}x" if is_number(factor) else NOTHING


def one_line(value: object) -> str:
    """Text that cannot break a table: control characters (a name may hold any) become spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def workload(key: str) -> str:
    """A workload's key, shortened for people; keys that are not understood stay as they are.

    `/2` is a stride, `*2x2` input dilation: a transposed convolution of that stride.

    >>> workload("conv2d(batch=1,in_height=8,in_width=8,in_channels=48,out_channels=96,kernel=3x3,stride=2x2,"
    ...          "padding=1x1x1x1,dilation=1x1,groups=1,residual=True,activation=relu)")
    '1x8x8x48 -> 96, 3x3/2, residual, relu'
    """
    match = re.fullmatch(r"conv2d\((.*)\)", key)
    fields = dict(part.partition("=")[::2] for part in match[1].split(",")) if match else {}
    try:
        shape = "x".join(fields[name] for name in ("batch", "in_height", "in_width", "in_channels"))
        down, across = fields["stride"].split("x")
        step = "" if down == across == "1" else f"/{down}" if down == across else f"/{down}x{across}"
        step += f"*{fields['input_dilation']}" if "input_dilation" in fields else ""
        parts = [f"{shape} -> {fields['out_channels']}"]
        parts += [] if fields["kernel"] == "1x1" and not step else [fields["kernel"] + step]
        parts += [f"groups {fields['groups']}"] if fields["groups"] != "1" else []
        parts += ["residual"] if fields["residual"] == "True" else []
        parts += [fields["activation"]] if fields["activation"] != "none" else []
    except (KeyError, ValueError):
        return key
    return ", ".join(parts)
