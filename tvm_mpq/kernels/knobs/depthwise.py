"""Knob space of the interleaved depthwise frame."""

from __future__ import annotations

from tvm_mpq.kernels.emit.tiles import even_tile
from tvm_mpq.kernels.packing.depthwise import window
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import conv_of

_PRODUCTS = 168  # of a block in one tile's straight code: more take LLVM too long


def depthwise_knobs(request: Request) -> list[Knobs]:
    """Two rows a tile share what they interleave, unless 3 rows at stride 2 overlap too little or few rows are left."""
    w = conv_of(request)
    single = w.stride[0] * 2 >= w.kernel[0] and w.kernel[0] > 1 if w.stride[0] > 1 else w.out_height <= 7
    out: list[Knobs] = []
    for rows in (1, 2, 4) if single else (2, 1, 4):
        win = window(w, rows)
        for limit in (8, 4, 14):
            knobs = {"rows": win.rows, "columns": even_tile(w.out_width, limit)}
            short = knobs["columns"] * w.kernel[1] * len(win.pairs()) <= _PRODUCTS
            if knobs not in out and (short or not out):
                out.append(knobs)
    return out
