"""Colours of bit-widths: one ramp from dark (few bits) to light, whose steps differ in lightness as much as in hue.

They are told apart by readers who see few colours, and in print without any; floats are white, bf16 hatched. Wherever a
colour stands, its number stands too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Samples of the ramp "viridis" (matplotlib, CC0) at equal steps.
_RAMP = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")

_DARK_UP_TO = 4
"""Bits whose colour needs white letters."""


@dataclass(frozen=True)
class Shade:
    """background: CSS. kind: `dark` or `light` by the letters it needs; `half` is hatched."""

    background: str
    kind: str


def shade(bits: int | str) -> Shade:
    """Of a bit-width 1 to 8, or of a float type's name."""
    if isinstance(bits, int) and 1 <= bits <= len(_RAMP):
        return Shade(_RAMP[bits - 1], "dark" if bits <= _DARK_UP_TO else "light")
    return Shade("#ffffff", "light" if bits == "fp32" else "half")


def parts(label: str) -> tuple[int | str, int | str]:
    """Weight and activation bits of a precision's name; a float type, or any other text, stands for both.

    >>> parts("w2a4"), parts("bf16")
    ((2, 4), ('bf16', 'bf16'))
    """
    match = re.fullmatch(r"w(\d)a(\d)", label)
    return (int(match[1]), int(match[2])) if match else (label, label)
