"""Rows of the kernel table for convolutions of few weight bits by look-up, in tables of sums or in packed bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.families.accept import is_dense
from tvm_mpq.kernels.families.row import framed_row
from tvm_mpq.kernels.families.terms import int32_terms
from tvm_mpq.kernels.features import AVX2, NEON, VBMI, VNNI, VPOPCNTDQ
from tvm_mpq.kernels.frames.lookup import LookupFrame, LookupMachine
from tvm_mpq.kernels.knobs.lookup import bit_knobs, nibble_knobs, table_knobs
from tvm_mpq.kernels.machines.avx2 import Avx2Nibbles
from tvm_mpq.kernels.machines.neon import NeonNibbles
from tvm_mpq.kernels.machines.nibbles import NibbleLookup, NibbleMachine
from tvm_mpq.kernels.machines.vbmi512_tables import TableLookup
from tvm_mpq.kernels.machines.vpopcnt512 import BitLookup
from tvm_mpq.kernels.packing.bit_words import BitShape, pack_bits
from tvm_mpq.kernels.packing.constants import convolution_constants
from tvm_mpq.kernels.packing.nibble_indices import NibbleShape, nibble_coding, pack_nibbles, part_count, sums_limit
from tvm_mpq.kernels.packing.table_indices import TableShape, pack_indices, table_coding
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import conv_of
from tvm_mpq.numerics.affine import unsigned_range
from tvm_mpq.numerics.arrays import Int8Array
from tvm_mpq.numerics.operands import Operands

_SUM_LANES = 16  # 16 bit lanes that add the activations of one position
_LEAST_USES = 4
"""Vectors of output channels, times taps, that must share a table before more than one look-up a weight gains anything.

By static analysis of cortex-a53 and cortex-a72, where a table costs as much to build as 3 to 4 uses of it save.
"""

_LEAST_TERMS, _LEAST_PARTS = 96, 8
"""Terms of a sum, and uses of a table, from which two bits gain by tables on AVX2: measured on Zen 3."""

_FIVE_BITS = frozenset(range(1, 6))
_MEANING = {1: "-1 and +1", 2: "-1..1", 3: "-3..3"}


def _is_tabled(request: Request) -> bool:
    """A dense convolution without dilation."""
    return is_dense(request) and conv_of(request).dilation == (1, 1)


def _row(
    name: str,
    features: frozenset[str],
    weight_bits: int,
    machine_of: Callable[[Request, Knobs], LookupMachine],
    knob_space: Callable[[Request], list[Knobs]],
    constants: Callable[[Request, Knobs, Operands], list[np.ndarray]],
    variant: Callable[[Request], object],
    *,
    activation_bits: frozenset[int] = _FIVE_BITS,
    accepts: Callable[[Request], bool] = _is_tabled,
    max_terms: Callable[[Request], int] = int32_terms,
) -> None:
    """A family that is the look-up frame around a machine."""

    def frame(request: Request, knobs: Knobs) -> LookupFrame:
        return LookupFrame(request, knobs, machine_of(request, knobs))

    framed_row(
        name,
        features,
        accepts,
        frame,
        LookupFrame.build,
        knob_space,
        constants,
        f"x 0..2^a-1 with a <= {max(activation_bits)}, w {_MEANING[weight_bits]}",
        weight_bits=frozenset({weight_bits}),
        activation_bits=activation_bits,
        variant=variant,
        max_terms=max_terms,
    )


def _table_constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    coding = table_coding(request)
    shape = TableShape.of(conv_of(request), coding)
    return convolution_constants(request, operands, lambda weight: pack_indices(weight, shape, coding, knobs["depth"]))


def _table_variant(request: Request) -> int:
    return table_coding(request).sums_limit(request.precision.activation_bits)


for _bits in (2, 1):
    _name = f"qu8_qs{_bits}_s32_lutconv2d__avx512vbmi"
    _row(_name, VNNI | VBMI, _bits, TableLookup, table_knobs, _table_constants, _table_variant)


def _nibbles_gain(request: Request) -> bool:
    return _is_tabled(request) and (nibble_coding(request).planes == 1 or _uses(request) >= _LEAST_USES)


def _long_sums(request: Request) -> bool:
    """Where tables of two bits win on AVX2: short sums and few channels do not pay for them, products of bytes do.

    Linear layers of one row are left to tables, whose weights take fewer bytes.
    """
    w = conv_of(request)
    one_row = w.batch * w.out_height * w.out_width == 1
    return _is_tabled(request) and (one_row or (w.terms >= _LEAST_TERMS and _uses(request) >= _LEAST_PARTS))


def _uses(request: Request) -> float:
    """How often a table is read, once for each vector of output channels and tap of the kernel that meets it."""
    w = conv_of(request)
    return part_count(request) * max(1.0, w.kernel[0] * w.kernel[1] / (w.stride[0] * w.stride[1]))


def _nibble_terms(request: Request) -> int:
    """The activations of one position are added up in lanes of 16 bits, all the rest in int32."""
    w, top = conv_of(request), unsigned_range(request.precision.activation_bits)[1]
    return min(int32_terms(request), w.kernel[0] * w.kernel[1] * _SUM_LANES * (65535 // top))


def _nibble_row(
    name: str,
    features: frozenset[str],
    weight_bits: int,
    machine: NibbleMachine,
    accepts: Callable[[Request], bool] = _nibbles_gain,
) -> None:
    def constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
        shape, coding = NibbleShape.of(conv_of(request)), nibble_coding(request)
        split = part_count(request), knobs["sums"], machine.byte_channels
        return convolution_constants(request, operands, lambda weight: pack_nibbles(weight, shape, coding, *split))

    _row(
        name,
        features,
        weight_bits,
        lambda request, knobs: NibbleLookup(request, knobs, machine),
        lambda request: nibble_knobs(request, machine),
        constants,
        lambda request: sums_limit(request.precision.activation_bits),
        accepts=accepts,
        max_terms=_nibble_terms,
    )


_nibble_row("qu8_qs2_s32_lutconv2d__avx2", AVX2, 2, Avx2Nibbles(), _long_sums)
_nibble_row("qu8_qs1_s32_lutconv2d__avx2", AVX2, 1, Avx2Nibbles())
_nibble_row("qu8_qs3_s32_lutconv2d__neon", NEON, 3, NeonNibbles())
_nibble_row("qu8_qs2_s32_lutconv2d__neon", NEON, 2, NeonNibbles())
_nibble_row("qu8_qs1_s32_lutconv2d__neon", NEON, 1, NeonNibbles())


def _few_planes(request: Request) -> bool:
    """One plane always; two are counted faster than sums are looked up where reading weights takes the time."""
    w = conv_of(request)
    one_row = w.kernel == (1, 1) and w.batch * w.out_height * w.out_width == 1
    return _is_tabled(request) and (request.precision.activation_bits == 1 or one_row)


def _bit_constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    """The biases also hold what the positive weights of a channel add: the kernel only counts what differs."""
    shape, top = BitShape.of(conv_of(request)), unsigned_range(request.precision.activation_bits)[1]

    def positive(weight: Int8Array) -> npt.NDArray[np.int32]:
        return np.asarray(top * (weight > 0).sum(axis=(1, 2, 3), dtype=np.int32), np.int32)

    return convolution_constants(request, operands, lambda weight: pack_bits(weight, shape), more_bias=positive)


_row(
    "qu2_qs1_s32_bitconv2d__avx512vpopcntdq",
    VPOPCNTDQ,
    1,
    BitLookup,
    bit_knobs,
    _bit_constants,
    lambda request: request.precision.activation_bits,
    activation_bits=frozenset({1, 2}),  # two in linear layers of one row
    accepts=_few_planes,
)
