"""The row of attention: softmax(scale * q k^T) v in float32 as one kernel."""

from __future__ import annotations

from tvm_mpq.kernels.emit import tiles
from tvm_mpq.kernels.features import GENERIC
from tvm_mpq.kernels.frames.attention import AttentionFrame
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.shapes.attention import VECTORS, attention_of
from tvm_mpq.schema import FLOAT_BITS, AttentionWorkload, DType

_FEWEST = 4
"""Keys and features: the fewest lanes that a vector is cut down to."""
_TILE_OVERHEAD = 4  # in FMA slots per step of the reduction: the loads that do not hide


def _accepts(request: Request) -> bool:
    """The features of v lie side by side, and so do either the features or the rows of k."""
    w = attention_of(request)
    side_by_side = w.v[-1] == 1 and 1 in w.k[-2:]
    return request.out_bits == FLOAT_BITS and side_by_side and min(w.features, w.value_features, w.keys) >= _FEWEST


def _knob_space(request: Request) -> list[Knobs]:
    """Rows of a register tile: few tiles, few rows computed twice."""
    queries = attention_of(request).queries
    most = 12 if request.features & {"avx512f", "neon"} else 6  # what 32 and 16 registers hold
    if queries <= most:
        return [{"rows": queries}]
    ranked = sorted(range(most, 1, -1), key=lambda rows: tiles(queries, rows) * (VECTORS * rows + _TILE_OVERHEAD))
    return [{"rows": rows} for rows in ranked[:3]]


ATTENTION = register(
    Family(
        name="f32_attention__generic",
        workload_type=AttentionWorkload,
        isa_features=GENERIC,
        weight_bits=frozenset({FLOAT_BITS}),
        activation_bits=frozenset({FLOAT_BITS}),
        operand_ranges="float32; the largest score of a row is subtracted before exp",
        accepts=_accepts,
        knob_space=_knob_space,
        build=lambda request, knobs: AttentionFrame(request, knobs).build(),
        constants=lambda request, knobs, operands: [],
        dtype=DType.FP32,
        parameters=lambda request, knobs: AttentionFrame(request, knobs).parameters,
        work=lambda request, knobs: AttentionFrame(request, knobs).work,
    )
)
