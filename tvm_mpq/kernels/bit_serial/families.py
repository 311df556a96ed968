"""The row of the kernel table for bit-serial convolutions."""

from __future__ import annotations

import numpy as np

from tvm_mpq.kernels.bit_serial.build import build_bit_serial
from tvm_mpq.kernels.bit_serial.knobs import bit_knobs
from tvm_mpq.kernels.bit_serial.pack import pack_bits
from tvm_mpq.kernels.bit_serial.shape import BitShape
from tvm_mpq.kernels.families.accept import is_dense, workload_of
from tvm_mpq.kernels.families.terms import int32_terms
from tvm_mpq.kernels.packing.dense import integer_constants, with_ranges
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload


def _accepts(request: Request) -> bool:
    """One plane always; two are counted faster than sums are looked up where reading weights takes the time."""
    w = workload_of(request)
    one_row = w.kernel == (1, 1) and w.batch * w.out_height * w.out_width == 1
    return is_dense(request) and w.dilation == (1, 1) and (request.precision.activation_bits == 1 or one_row)


def _constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    """As `with_ranges` gives them; the bias also holds what the positive weights of a channel add (modulo 2^32)."""
    numbers = integer_constants(request, operands)
    words = pack_bits(numbers.weight, BitShape.of_workload(workload_of(request)))
    weight, bias, *rest = with_ranges(request, numbers, words)
    positive = (numbers.weight > 0).sum(axis=(1, 2, 3), dtype=np.int32)
    bias[: len(positive)] += ((1 << request.precision.activation_bits) - 1) * positive
    return [weight, bias, *rest]


register(
    Family(
        name="qu2_qs1_s32_bitconv2d__avx512vpopcntdq",
        workload_type=Conv2dWorkload,
        isa_features=frozenset({"avx512f", "avx512bw", "avx512vpopcntdq"}),
        weight_bits=frozenset({1}),
        activation_bits=frozenset({1, 2}),
        operand_ranges="x 0 and 1, in linear layers of one row also 0..3; w -1 and +1",
        accepts=_accepts,
        knob_space=bit_knobs,
        build=build_bit_serial,
        constants=_constants,
        rank=70,
        max_terms=int32_terms,
        variant=lambda request: request.precision.activation_bits,
    )
)
