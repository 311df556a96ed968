"""Rows of the kernel table for convolutions by look-up."""

from __future__ import annotations

import numpy as np

from tvm_mpq.kernels.families.terms import int32_terms
from tvm_mpq.kernels.lut.accept import is_tabled
from tvm_mpq.kernels.lut.build import build_lut
from tvm_mpq.kernels.lut.coding import coding_of
from tvm_mpq.kernels.lut.knobs import lut_knobs
from tvm_mpq.kernels.lut.pack import pack_indices
from tvm_mpq.kernels.lut.shape import LutShape
from tvm_mpq.kernels.packing.dense import integer_constants, with_ranges
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload


def _constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    assert isinstance(request.workload, Conv2dWorkload)
    numbers = integer_constants(request, operands)
    weight = pack_indices(numbers.weight, LutShape.of(request.workload, coding_of(request)), knobs["depth"])
    return with_ranges(request, numbers, weight)


for _bits, _meaning in ((2, "w -2..1"), (1, "w -1 and +1")):
    register(
        Family(
            name=f"qu8_qs{_bits}_s32_lutconv2d__avx512vbmi",
            workload_type=Conv2dWorkload,
            isa_features=frozenset({"avx512f", "avx512bw", "avx512vnni", "avx512vbmi"}),
            weight_bits=frozenset({_bits}),
            activation_bits=frozenset({1, 2, 3, 4, 5}),
            operand_ranges=f"x 0..2^a-1 with a <= 5, {_meaning}",
            accepts=is_tabled,
            knob_space=lut_knobs,
            build=build_lut,
            constants=_constants,
            rank=60,
            max_terms=int32_terms,
            variant=lambda request: coding_of(request).sums_limit(request.precision.activation_bits),
        )
    )
