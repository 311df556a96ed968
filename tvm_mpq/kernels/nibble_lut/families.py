"""Rows of the kernel table for convolutions by look-up in tables of 16 entries."""

from __future__ import annotations

import numpy as np

from tvm_mpq.kernels.families.accept import workload_of
from tvm_mpq.kernels.families.terms import int32_terms
from tvm_mpq.kernels.lut.accept import is_tabled
from tvm_mpq.kernels.nibble_lut.build import build_nibble_lut, part_count
from tvm_mpq.kernels.nibble_lut.coding import coding_of, sums_limit
from tvm_mpq.kernels.nibble_lut.knobs import nibble_knobs
from tvm_mpq.kernels.nibble_lut.machine import Machine
from tvm_mpq.kernels.nibble_lut.neon import Neon
from tvm_mpq.kernels.nibble_lut.pack import pack_nibbles
from tvm_mpq.kernels.nibble_lut.shape import NibbleShape
from tvm_mpq.kernels.nibble_lut.x86_256 import Avx2
from tvm_mpq.kernels.packing.dense import integer_constants, with_ranges
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.tir import Script
from tvm_mpq.numerics.affine import unsigned_range
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload

_LANES = 16  # 16 bit lanes that add the activations of one position
_LEAST_USES = 4
"""Vectors of output channels, times taps, that must share a table before more than one look-up a weight gains anything.

By static analysis of cortex-a53 and cortex-a72, where a table costs as much to build as 3 to 4 uses of it save.
"""


def _accepts(request: Request) -> bool:
    return is_tabled(request) and (coding_of(request).planes == 1 or _uses(request) >= _LEAST_USES)


def _uses(request: Request) -> float:
    """How often a table is read, once for each vector of output channels and tap of the kernel that meets it."""
    w = workload_of(request)
    return part_count(request) * max(1.0, w.kernel[0] * w.kernel[1] / (w.stride[0] * w.stride[1]))


def _max_terms(request: Request) -> int:
    """The activations of one position are added up in lanes of 16 bits, all the rest in int32."""
    w, top = workload_of(request), unsigned_range(request.precision.activation_bits)[1]
    return min(int32_terms(request), w.kernel[0] * w.kernel[1] * _LANES * (65535 // top))


def _row(name: str, features: frozenset[str], bits: int, rank: int, machine: Machine) -> Family:
    def build(request: Request, knobs: Knobs) -> Script:
        return build_nibble_lut(request, knobs, machine)

    def constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
        numbers = integer_constants(request, operands)
        split = part_count(request), knobs["sums"], machine.byte_channels
        weight = pack_nibbles(numbers.weight, NibbleShape.of_workload(workload_of(request)), coding_of(request), *split)
        return with_ranges(request, numbers, weight)

    weights = {1: "-1 or 1", 2: "-1..1", 3: "-3..3"}[bits]
    return register(
        Family(
            name=name,
            workload_type=Conv2dWorkload,
            isa_features=features,
            weight_bits=frozenset({bits}),
            activation_bits=frozenset({1, 2, 3, 4, 5}),
            operand_ranges=f"x 0..2^a-1 with a <= 5, w {weights}",
            accepts=_accepts,
            knob_space=lambda request: nibble_knobs(request, machine),
            build=build,
            constants=constants,
            rank=rank,
            max_terms=_max_terms,
            variant=lambda request: sums_limit(request.precision.activation_bits),
        )
    )


_AVX2 = frozenset({"avx2"})
_NEON = frozenset({"fp-armv8", "neon"})  # fp-armv8 tells 64-bit ARM from 32-bit
_row("qu8_qs2_s32_lutconv2d__avx2", _AVX2, 2, 35, Avx2())
_row("qu8_qs1_s32_lutconv2d__avx2", _AVX2, 1, 35, Avx2())
_row("qu8_qs3_s32_lutconv2d__neon", _NEON, 3, 35, Neon())  # before products without sdot, behind sdot
_row("qu8_qs2_s32_lutconv2d__neon", _NEON, 2, 35, Neon())
_row("qu8_qs1_s32_lutconv2d__neon", _NEON, 1, 45, Neon())  # before sdot
