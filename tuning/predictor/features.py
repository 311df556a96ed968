"""What the regressor sees of an entry, and where the entry lies among others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.arrays import DoubleArray
from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.tuning.predictor.entry import Entry
from tvm_mpq.tuning.predictor.traffic import terms

COORDINATES = ("products", "in_bytes", "out_bytes", "weight_bytes", "steps", "rows", "width")
"""Counts whose logarithms say where an entry lies."""


def positions(entries: Sequence[Entry]) -> DoubleArray:
    """float64[entries, coordinates] in octaves: a step of 1 is a factor of 2."""
    rows = [[math.log2(1 + getattr(entry.work, name)) for name in COORDINATES] for entry in entries]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(COORDINATES))


def table(entries: Sequence[Entry], law_us: DoubleArray) -> DoubleArray:
    """float64[entries, features]; NaN where an operator has no such feature. law_us: the law's estimate."""
    rows = [_row(e, float(us)) for e, us in zip(entries, law_us, strict=True)]
    return np.array(rows, dtype=np.float64)


def _row(entry: Entry, law_us: float) -> list[float]:
    work, machine, precision = entry.work, entry.machine, entry.precision
    moved = work.in_bytes + work.out_bytes + work.weight_bytes
    row = [math.log2(law_us)]
    counts = (work.macs, work.in_bytes, work.out_bytes, work.weight_bytes, work.steps)
    row += [math.log2(1 + count) for count in (*terms(entry), *counts)]
    row += [
        math.log2((1 + work.macs) / moved),
        work.rows,
        work.width,
        work.in_bytes / machine.l1d_bytes,
        work.weight_bytes / machine.l1d_bytes,
        moved / machine.l2_bytes,
        float(machine.lanes),
        float(machine.threads),
        float(precision.weight_bits),
        float(precision.activation_bits),
        float(entry.key.out_bits),
        float(not is_clamp(getattr(entry.workload, "activation", "none"))),
    ]
    row += [float(_number(entry.knobs.get(name))) for name in ("rows", "columns", "cols", "blocks", "lanes", "sums")]
    return row + _shape(entry)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _shape(entry: Entry) -> list[float]:
    """Remainders of tiles and vectors, and what a convolution alone has."""
    w, knobs = entry.workload, entry.knobs
    if not isinstance(w, Conv2dWorkload):
        return [math.nan] * 12
    columns = int(knobs.get("columns", knobs.get("cols", 1)))
    return [
        float(w.in_channels),
        float(w.out_channels),
        float(w.in_channels % 16),
        float(w.out_channels % 32),
        float(w.out_width % max(1, columns)),
        float(w.out_height % max(1, int(knobs.get("rows", 1)))),
        float(w.kernel[0] * w.kernel[1]),
        float(w.stride[0]),
        float(w.groups),
        float(w.residual),
        float(any(w.padding)),
        float(knobs.get("order") == "positions"),
    ]
