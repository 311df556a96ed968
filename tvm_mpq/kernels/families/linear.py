"""Rows of the kernel table for linear layers of few rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_mpq.kernels.families.accept import is_dense
from tvm_mpq.kernels.families.terms import int32_terms, scaled_terms
from tvm_mpq.kernels.features import AVX2, AVX_VNNI, DOTPROD, NEON, VBMI, VNNI
from tvm_mpq.kernels.frames.linear import LinearMachine, build_linear, linear_parameters, linear_shape, linear_work
from tvm_mpq.kernels.knobs.linear import linear_knobs
from tvm_mpq.kernels.machines.avx2 import Avx2Fields
from tvm_mpq.kernels.machines.avxvnni import AvxVnniFields
from tvm_mpq.kernels.machines.neon_linear import DotFields, NeonFields
from tvm_mpq.kernels.machines.vbmi512 import SubsetLookup
from tvm_mpq.kernels.machines.vnni512 import VnniFields
from tvm_mpq.kernels.packing.constants import convolution_constants
from tvm_mpq.kernels.packing.linear import SIGN_BIT, field_coding, pack_tiles
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.shapes.geometry import conv_of
from tvm_mpq.numerics.affine import unsigned_range
from tvm_mpq.numerics.arrays import ByteArray, Int8Array
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload

_MOST_ROWS = 3
"""Of a layer: with more rows, kernels win that expand a weight once for all of them."""
_TABLED = (2, 5)
"""Bits of weights and of activations up to which looking sums up is faster from two rows on, which share tables."""


def _most_rows(request: Request) -> int:
    weight_bits, activation_bits = _TABLED
    p = request.precision
    return 1 if p.weight_bits <= weight_bits and p.activation_bits <= activation_bits else _MOST_ROWS


def _accepts(request: Request, machine: LinearMachine) -> bool:
    w = conv_of(request)
    rows = w.batch * w.in_height * w.in_width
    linear = w.kernel == w.stride == (1, 1) and not any(w.padding)
    in_registers = machine.needed(rows, machine.coding.fields) <= machine.registers
    return is_dense(request) and linear and rows <= _most_rows(request) and in_registers


def _max_terms(request: Request, machine: LinearMachine) -> int:
    """Sums of fields in their places are shifted right."""
    greatest = SIGN_BIT if machine.sign else unsigned_range(request.precision.activation_bits)[1]
    return scaled_terms(request, greatest * machine.highest) if machine.highest else int32_terms(request)


def _row(
    name: str,
    features: frozenset[str],
    bits: tuple[int, ...],
    machine_of: Callable[[Request], LinearMachine],
    accepts: Callable[[Request, LinearMachine], bool] = _accepts,
    variant: Callable[[Request], object] = lambda request: None,
) -> None:
    def constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
        machine = machine_of(request)
        shape = linear_shape(request, knobs, machine)

        def pack(weight: Int8Array) -> ByteArray:
            return pack_tiles(machine.codes(weight[:, 0, 0], shape), shape)

        return convolution_constants(request, operands, pack, taken=machine.sign)

    meaning = {1: "-1 and 1", 2: "-1..1", 4: "-7..7"}[max(bits)]
    register(
        Family(
            name=name,
            workload_type=Conv2dWorkload,
            isa_features=features,
            weight_bits=frozenset(bits),
            activation_bits=frozenset(range(1, 9)),
            operand_ranges=f"x 0..255, w {meaning}",
            accepts=lambda request: accepts(request, machine_of(request)),
            knob_space=lambda request: linear_knobs(request, machine_of(request)),
            build=lambda request, knobs: build_linear(request, knobs, machine_of(request)),
            parameters=lambda request, knobs: linear_parameters(request, knobs, machine_of(request)),
            work=lambda request, knobs: linear_work(request, knobs, machine_of(request)),
            constants=constants,
            variant=variant,
            max_terms=lambda request: _max_terms(request, machine_of(request)),
        )
    )


def _one_row(request: Request, machine: LinearMachine) -> bool:
    w = conv_of(request)
    return w.batch * w.in_height * w.in_width == 1 and _accepts(request, machine)


def _lookup(request: Request) -> SubsetLookup:
    return SubsetLookup(request.precision.activation_bits)


def _vnni(request: Request) -> VnniFields:
    return VnniFields(field_coding(request))


def _avx_vnni(request: Request) -> AvxVnniFields:
    return AvxVnniFields(field_coding(request))


def _avx2(request: Request) -> Avx2Fields:
    return Avx2Fields(field_coding(request))


_row("qu8_qc4u_s32_linear__avx512vnni", VNNI, (3, 4), _vnni)
_row("qu8_qc2u_s32_linear__avx512vnni", VNNI, (2,), _vnni)
_row("qu8_qc1u_s32_linear__avx512vnni", VNNI, (1,), _vnni)
_row(
    "qu8_qs1_s32_lutlinear__avx512vbmi",
    VNNI | VBMI,
    (1,),
    _lookup,
    _one_row,
    lambda request: _lookup(request).pieces,
)
_row("qu8_qc4u_s32_linear__avxvnni", AVX_VNNI, (3, 4), _avx_vnni)
_row("qu8_qc2u_s32_linear__avxvnni", AVX_VNNI, (2,), _avx_vnni)
_row("qu8_qc1u_s32_linear__avxvnni", AVX_VNNI, (1,), _avx_vnni)
_row("qu8_qc4u_s16_linear__avx2", AVX2, (3, 4), _avx2)
_row("qu8_qc2u_s16_linear__avx2", AVX2, (2,), _avx2)
_row("qu8_qc1u_s16_linear__avx2", AVX2, (1,), _avx2)
for _name, _bits in (("4", (3, 4)), ("2", (2,)), ("1", (1,))):
    _row(f"qu8_qc{_name}u_s32_linear__dotprod", DOTPROD, _bits, lambda request: DotFields(field_coding(request)))
    _row(f"qu8_qc{_name}u_s16_linear__neon", NEON, _bits, lambda request: NeonFields(field_coding(request)))
