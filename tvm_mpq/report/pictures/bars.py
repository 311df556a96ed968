"""A horizontal bar, as templates/bars.html.j2 draws it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.report.pictures.palette import Shade


@dataclass(frozen=True)
class Bar:
    """start, length: shares of the width, 0 to 1; value: what is written behind it."""

    name: str
    start: float
    length: float
    shade: Shade
    value: str
