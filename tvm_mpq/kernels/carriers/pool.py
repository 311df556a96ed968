"""Pooling, NHWC.

Maximum: cells outside the map are replaced by the nearest cell inside, which the window holds as well, so borders need
no branch. Average: exact sums of the cells inside, one multiplier per count of cells (bytes) or one division (floats).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tvm_mpq.kernels.carriers.common import (
    FLOAT_ONLY,
    GENERIC,
    INTEGER_BITS,
    Carrier,
    centered,
    int_row,
    is_float,
    is_integer,
    lane_type,
    one_choice,
    rounded,
    splat,
    vec,
)
from tvm_mpq.kernels.families.terms import mean_terms
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.tir import Params, Script
from tvm_mpq.numerics import constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, Pool2dWorkload, padded_channels

_UNROLL_TAPS = 16  # larger windows loop over their cells
_UINT16_CELLS = 257  # cells of 255 that a uint16 sum holds
_BYTE_LANES, _FLOAT_LANES = 64, 16


def _workload(request: Request) -> Pool2dWorkload:
    assert isinstance(request.workload, Pool2dWorkload)
    return request.workload


@dataclass(frozen=True)
class _Axis:
    """One spatial axis: windows of `kernel` cells every `stride` over `size` cells with padding on both sides."""

    size: int
    outs: int
    kernel: int
    stride: int
    before: int
    after: int

    @property
    def is_inside(self) -> bool:
        """No window reaches past the map."""
        return self.before == 0 and (self.outs - 1) * self.stride + self.kernel <= self.size

    @property
    def has_empty_window(self) -> bool:
        last = (self.outs - 1) * self.stride - self.before
        return self.before >= self.kernel or last >= self.size

    def start(self, out: str) -> str:
        return f"({out} * {self.stride} - {self.before})"

    def clamped(self, out: str, tap: str) -> str:
        """The cell of a tap, moved into the map."""
        cell = f"({self.start(out)} + {tap})"
        return cell if self.is_inside else f"T.max(T.min({cell}, {self.size - 1}), 0)"

    def valid(self, out: str) -> tuple[str, str]:
        """First tap inside the map, and how many there are."""
        if self.is_inside:
            return "0", str(self.kernel)
        first = f"T.max(0, 0 - {self.start(out)})"
        return first, f"T.max(T.min({self.kernel}, {self.size} - {self.start(out)}) - {first}, 0)"

    def counted(self, out: str) -> str:
        """Cells that an average with counted padding divides by along this axis."""
        if self.is_inside:
            return str(self.kernel)
        return f"T.max(T.min({self.kernel}, {self.size + self.after} - {self.start(out)}), 0)"


def _axes(work: Pool2dWorkload) -> tuple[_Axis, _Axis]:
    top, left, bottom, right = work.padding
    return (
        _Axis(work.in_height, work.out_height, work.kernel[0], work.stride[0], top, bottom),
        _Axis(work.in_width, work.out_width, work.kernel[1], work.stride[1], left, right),
    )


def _cell(work: Pool2dWorkload, row: str, column: str, channels: int) -> str:
    """Flat index of channel 0 of a cell of image n."""
    return f"((n * {work.in_height} + {row}) * {work.in_width} + {column}) * {channels}"


def _maximum(request: Request, code: Carrier, channels: int, dtype: str) -> None:
    work = _workload(request)
    height, width = _axes(work)
    small = work.kernel[0] * work.kernel[1] <= _UNROLL_TAPS
    with _positions(code, work, channels, ease=2 if dtype == "uint8" else 1):
        if small:
            for i in range(work.kernel[0]):
                for j in range(work.kernel[1]):
                    row, column = height.clamped("oh", str(i)), width.clamped("ow", str(j))
                    code.let(f"cell_{i}_{j}", _cell(work, row, column, channels))
        with code.span("c", channels, _lanes(dtype)) as lanes:
            out = vec("out", f"position * {channels} + c", lanes)
            if small:
                names = [f"cell_{i}_{j}" for i in range(work.kernel[0]) for j in range(work.kernel[1])]
                best = _tree([vec("x", f"{name} + c", lanes) for name in names])
            else:
                best = _large_maximum(code, work, channels, lanes, dtype)
            code.line(f"{out} = {best}")


def _large_maximum(code: Carrier, work: Pool2dWorkload, channels: int, lanes: int, dtype: str) -> str:
    """Loop over the cells of a window; returns the vector that holds the maximum."""
    height, width = _axes(work)
    best = vec("best", "0", lanes)
    first = _cell(work, height.clamped("oh", "0"), width.clamped("ow", "0"), channels)
    code.line(f'best = T.alloc_buffer(({lanes},), "{dtype}")')
    code.line(f"{best} = {vec('x', f'{first} + c', lanes)}")
    with code.block(f"for i, j in T.grid({work.kernel[0]}, {work.kernel[1]}):"):
        cell = _cell(work, height.clamped("oh", "i"), width.clamped("ow", "j"), channels)
        code.line(f"{best} = T.max({best}, {vec('x', f'{cell} + c', lanes)})")
    return best


def _average(request: Request, code: Carrier, channels: int, is_bytes: bool) -> None:
    work = _workload(request)
    height, width = _axes(work)
    sums = "float32" if not is_bytes else "uint16" if work.kernel[0] * work.kernel[1] <= _UINT16_CELLS else "int32"
    with _positions(code, work, channels):
        (first_i, rows), (first_j, columns) = height.valid("oh"), width.valid("ow")
        code.let("cells", f"({rows}) * ({columns})")
        count = f"{height.counted('oh')} * {width.counted('ow')}" if work.mode == "avg" else "cells"
        row, column = f"{height.start('oh')} + {first_i}", f"{width.start('ow')} + {first_j}"
        code.let("corner", _cell(work, row, column, channels))
        if is_bytes:
            code.let("factor", f"m[{count}]")
            code.let("offset", "z_x * cells")
        else:
            code.let("factor", f'T.Cast("float32", T.max({count}, 1))')
        with code.span("c", channels, _lanes("uint8" if is_bytes else "float32")) as lanes:
            total = vec("total", "0", lanes)
            code.line(f'total = T.alloc_buffer(({lanes},), "{sums}")')
            code.line(f"{total} = {splat(f'T.{sums}(0)', lanes)}")
            with _window(code, work, rows, columns, channels):
                code.line(f'{total} = {total} + T.Cast("{lane_type(sums, lanes)}", {vec("x", "cell + c", lanes)})')
            if is_bytes:
                result = rounded(f"{centered(total, 'offset', lanes)} * {splat('factor', lanes)}", lanes)
            else:
                result = f"{total} / {splat('factor', lanes)}"
            code.line(f"{vec('out', f'position * {channels} + c', lanes)} = {result}")


@contextmanager
def _positions(code: Carrier, work: Pool2dWorkload, channels: int, *, ease: int = 1) -> Iterator[None]:
    """Loops over output positions, binding n, oh, ow and position; ease as in `Carrier.flat`."""
    rows = work.batch * work.out_height
    with code.rows("r", rows, rows * work.out_width * channels // ease):
        code.let("n", f"r // {work.out_height}")
        code.let("oh", f"r % {work.out_height}")
        with code.block(f"for ow in range({work.out_width}):"):
            code.let("position", f"r * {work.out_width} + ow")
            yield


@contextmanager
def _window(code: Carrier, work: Pool2dWorkload, rows: str, columns: str, channels: int) -> Iterator[None]:
    """Loops over the cells of a window, binding cell; one long loop where the cells lie in one piece."""
    if columns == str(work.in_width) and rows.isdigit():
        with code.block(f"for k in range({int(rows) * work.in_width}):"):
            code.let("cell", f"corner + k * {channels}")
            yield
        return
    with code.block(f"for i in range({rows}):"), code.block(f"for j in range({columns}):"):
        code.let("cell", f"corner + (i * {work.in_width} + j) * {channels}")
        yield


def _tree(values: list[str]) -> str:
    """Nested T.max of small depth."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return f"T.max({_tree(values[:half])}, {_tree(values[half:])})"


def _lanes(dtype: str) -> int:
    return _BYTE_LANES if dtype == "uint8" else _FLOAT_LANES


def _build(request: Request, knobs: Knobs) -> Script:
    work = _workload(request)
    is_bytes = request.out_bits != FLOAT_BITS
    channels = padded_channels(work.channels) if is_bytes else work.channels
    dtype = "uint8" if is_bytes else "float32"
    averages = work.mode != "max"
    params: Params = [("x", (work.batch, work.in_height, work.in_width, channels), dtype)]
    if is_bytes and averages:
        params += [("q", (8,), "int32"), ("m", (work.kernel[0] * work.kernel[1] + 1,), "float32")]
    code = Carrier(request, [*params, ("out", (work.batch, work.out_height, work.out_width, channels), dtype)])
    if not averages:
        _maximum(request, code, channels, dtype)
        return code.build()
    if is_bytes:
        code.let("z_x", "q[0]")
        code.rounding("q[1]", "q[2]", "q[3]")
    _average(request, code, channels, is_bytes)
    return code.build()


def _constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    work = _workload(request)
    if work.mode == "max":
        return []
    end = constants.finish("none", request.out_bits, operands)
    x = constants.integer_input(operands, 0)
    q = int_row(x.zero_point, end.zero_point, end.lo, end.hi)
    return [q, constants.pool_multipliers(work, operands)]


def _has_cells(request: Request) -> bool:
    """A maximum over no cell at all has no meaning."""
    work = _workload(request)
    return work.mode in ("avg", "avg_valid") or (
        work.mode == "max" and not any(axis.has_empty_window for axis in _axes(work))
    )


register(
    Family(
        name="qu8_pool2d__generic",
        workload_type=Pool2dWorkload,
        isa_features=GENERIC,
        weight_bits=INTEGER_BITS,
        activation_bits=INTEGER_BITS,
        operand_ranges="input 0..255",
        accepts=lambda request: is_integer(request) and _has_cells(request),
        knob_space=one_choice,
        build=_build,
        constants=_constants,
        max_terms=mean_terms,
    )
)
register(
    Family(
        name="f32_pool2d__generic",
        workload_type=Pool2dWorkload,
        isa_features=GENERIC,
        weight_bits=FLOAT_ONLY,
        activation_bits=FLOAT_ONLY,
        operand_ranges="any float32",
        accepts=lambda request: is_float(request) and _has_cells(request),
        knob_space=one_choice,
        build=_build,
        constants=lambda request, knobs, operands: [],
    )
)
