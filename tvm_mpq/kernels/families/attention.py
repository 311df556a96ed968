"""The rows of attention, softmax(scale * q k^T) v as one kernel: in float32, and on bytes."""

from __future__ import annotations

import numpy as np

from tvm_mpq.kernels.emit import tiles
from tvm_mpq.kernels.families.weightless import float_row, int_row
from tvm_mpq.kernels.features import AVX2, AVX_VNNI, GENERIC, VNNI
from tvm_mpq.kernels.frames.attention import AttentionFrame
from tvm_mpq.kernels.frames.integer_attention import IntegerAttentionFrame, PairMachine
from tvm_mpq.kernels.machines.pairs import Avx2Pairs, PortablePairs, VnniPairs
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.shapes.attention import VECTORS, attention_of, stored_places
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.attention import longest_sum, score_factor, value_factor
from tvm_mpq.numerics.operands import Operands
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


def _side_by_side(request: Request, machine: PairMachine) -> bool:
    """The features of v lie side by side, at least a vector of them; every operand is a strided view of bytes."""
    w = attention_of(request)
    return w.v[-1] == 1 and w.value_features >= machine.lanes and stored_places(w) is not None


def _constants(request: Request, operands: Operands) -> list[np.ndarray]:
    w = attention_of(request)
    end = constants.finish("none", request.out_bits, operands)
    zeros = (constants.integer_input(operands, place[0]).zero_point for place in (w.q, w.k, w.v))
    row = int_row(*zeros, end.zero_point, end.lo, end.hi)
    return [row, float_row(score_factor(w, operands), value_factor(w, operands, end))]


def _byte_row(isa: str, features: frozenset[str], machine: PairMachine, *, offered: bool = True) -> None:
    register(
        Family(
            name=f"qu8_qu8_s32_attention__{isa}",
            workload_type=AttentionWorkload,
            isa_features=features,
            weight_bits=frozenset({8}),
            activation_bits=frozenset({8}),
            operand_ranges="q, k, v and their zero points 0..255; weights 0..255",
            accepts=lambda request: _side_by_side(request, machine),
            knob_space=_knob_space,
            build=lambda request, knobs: IntegerAttentionFrame(request, knobs, machine).build(),
            constants=lambda request, knobs, operands: _constants(request, operands),
            parameters=lambda request, knobs: IntegerAttentionFrame(request, knobs, machine).parameters,
            work=lambda request, knobs: IntegerAttentionFrame(request, knobs, machine).work,
            max_terms=lambda request: longest_sum(request.precision.activation_bits),
            offered=offered,
        )
    )


_byte_row("avx512vnni", VNNI, VnniPairs(16))
_byte_row("avxvnni", AVX_VNNI, VnniPairs(8))
_byte_row("avx2", AVX2, Avx2Pairs())
# Slower than floats without AVX2, where each fma is a call; NEON adds four products an instruction in either.
_byte_row("generic", GENERIC, PortablePairs(), offered=False)
