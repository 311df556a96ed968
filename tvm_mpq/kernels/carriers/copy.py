"""Slices, strided slices, zero padding and their compositions: fill the output, then copy runs into it.

Axes that are taken whole are merged with the axis before them, so that the runs get long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tvm_mpq.kernels.carriers.common import (
    FLOAT_ONLY,
    GENERIC,
    INTEGER_BITS,
    Carrier,
    int_row,
    is_float,
    is_integer,
    one_choice,
    splat,
    stored_shape,
    vec,
)
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.tir import Params, Script
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, CopyWorkload

_BYTE_LANES, _FLOAT_LANES = 64, 16
_EASE = 4  # elements copied in the time of one addition


def _workload(request: Request) -> CopyWorkload:
    assert isinstance(request.workload, CopyWorkload)
    return request.workload


@dataclass(frozen=True)
class _Axis:
    """Along one axis, out[pad + k] = source[begin + stride * k] for k in [0, count)."""

    source: int
    out: int
    begin: int
    stride: int
    count: int
    pad: int

    @property
    def is_whole(self) -> bool:
        return self.stride == 1 and self.count == self.source == self.out

    def merged(self, inner: int) -> _Axis:
        """This axis with a whole inner axis of `inner` elements taken in."""
        return replace(
            self,
            source=self.source * inner,
            out=self.out * inner,
            begin=self.begin * inner,
            count=self.count * inner,
            pad=self.pad * inner,
        )


def _merged_axes(work: CopyWorkload, is_bytes: bool) -> list[_Axis]:
    source, out = (stored_shape(s, not is_bytes) for s in (work.in_shape, work.out_shape))
    axes = [
        _Axis(*values) for values in zip(source, out, work.begin, work.stride, work.count, work.pad_before, strict=True)
    ]
    if work.count[-1] == work.in_shape[-1] == work.out_shape[-1] and work.stride[-1] == 1:
        axes[-1] = replace(axes[-1], count=source[-1])  # the padding of the channels goes along
    while len(axes) > 1 and axes[-1].is_whole and axes[-2].stride == 1:
        inner = axes.pop()
        axes[-1] = axes[-1].merged(inner.count)
    return axes


def _build(request: Request, knobs: Knobs) -> Script:
    work = _workload(request)
    is_bytes = request.out_bits != FLOAT_BITS
    dtype, lanes = ("uint8", _BYTE_LANES) if is_bytes else ("float32", _FLOAT_LANES)
    params: Params = [("x", stored_shape(work.in_shape, not is_bytes), dtype)]
    if is_bytes:
        params.append(("q", (8,), "int32"))
    code = Carrier(request, [*params, ("out", stored_shape(work.out_shape, not is_bytes), dtype)])
    axes = _merged_axes(work, is_bytes)
    total, copied = math.prod(a.out for a in axes), math.prod(a.count for a in axes)
    if copied < total:
        code.let("zero", 'T.Cast("uint8", q[0])' if is_bytes else "T.float32(0)")
        with code.flat(total, lanes, ease=_EASE) as width:
            code.line(f"{vec('out', 'i', width)} = {splat('zero', width)}")
    if copied:
        _copy(code, axes, lanes)
    return code.build()


def _copy(code: Carrier, axes: list[_Axis], lanes: int) -> None:
    *outer, last = axes
    source, target = [], []
    for k, axis in enumerate(outer):
        inner_source, inner_out = (math.prod(getattr(a, name) for a in axes[k + 1 :]) for name in ("source", "out"))
        source.append(f"({axis.begin} + {axis.stride} * k{k}) * {inner_source}")
        target.append(f"({axis.pad} + k{k}) * {inner_out}")
    rows = math.prod(a.count for a in outer)
    with code.rows("r", rows, rows * last.count // _EASE):
        rest = rows
        for k, axis in enumerate(outer):
            rest //= axis.count
            code.let(f"k{k}", f"r // {rest} % {axis.count}")
        code.let("source", " + ".join([*source, str(last.begin)]))
        code.let("target", " + ".join([*target, str(last.pad)]))
        if last.stride == 1:
            with code.span("c", last.count, lanes) as width:
                code.line(f"{vec('out', 'target + c', width)} = {vec('x', 'source + c', width)}")
            return
        with code.block(f"for c in range({last.count}):"):
            code.line(f"out[target + c] = x[source + c * {last.stride}]")


def _constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    return [int_row(constants.integer_input(operands, 0).zero_point)]


register(
    Family(
        name="qu8_copy__generic",
        workload_type=CopyWorkload,
        isa_features=GENERIC,
        weight_bits=INTEGER_BITS,
        activation_bits=INTEGER_BITS,
        operand_ranges="input 0..255",
        accepts=is_integer,
        knob_space=one_choice,
        build=_build,
        constants=_constants,
    )
)
register(
    Family(
        name="f32_copy__generic",
        workload_type=CopyWorkload,
        isa_features=GENERIC,
        weight_bits=FLOAT_ONLY,
        activation_bits=FLOAT_ONLY,
        operand_ranges="any float32",
        accepts=is_float,
        knob_space=one_choice,
        build=_build,
        constants=lambda request, knobs, operands: [],
    )
)
