"""What knob spaces have in common: tiles of positions, the cheapest of what was found, each choice once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tvm_mpq.kernels.emit.tiles import even_tile
from tvm_mpq.kernels.registry import Knobs
from tvm_mpq.kernels.shapes.geometry import Geometry

T = TypeVar("T")


def cheapest(cycles: dict[T, float], most: int) -> list[T]:
    """The tiles of least estimated cycles, at most so many, the best first."""
    return sorted(cycles, key=lambda tile: cycles[tile])[:most]


def distinct(found: Iterable[Knobs]) -> list[Knobs]:
    """Every choice once, where it comes first."""
    out: list[Knobs] = []
    for knobs in found:
        if knobs not in out:
            out.append(knobs)
    return out


def position_tile(g: Geometry, limit: int) -> tuple[int, int]:
    """Rows and columns of a tile of about `limit` positions: more rows than one only where they are whole."""
    columns = even_tile(g.out_width, limit)
    return even_tile(g.out_height, max(1, limit // columns)) if columns == g.out_width else 1, columns
