"""Rows of boundaries between storage formats: quantize, dequantize, change of bits or range, NCHW to channels-last.

A channels-first side is a transposition of the other one, converted vector by vector on the way. Up to 4 channels that
become bytes (images) are interleaved in registers, 16 positions at a time, with what pads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit import Buffer, Function, Parameter, Value, fill_overlapping, let, loop, shuffle, span
from tvm_mpq.kernels.emit.quantize import ByteRange, centered
from tvm_mpq.kernels.families.weightless import (
    add_row,
    float_row,
    int_row,
    quant_rows,
    stored_shape,
    vector_lanes,
)
from tvm_mpq.kernels.features import GENERIC, VBMI, native_lanes
from tvm_mpq.kernels.frames.elementwise import flat, look_up_all, rows
from tvm_mpq.kernels.frames.transpose import Load, Transposition
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.work import Work, array_bytes, rowwise_work
from tvm_mpq.numerics import activations, constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, ConvertWorkload, DType, TensorQuant

_LANES = 16
_FLAT_LANES = 32
_IMAGE_CHANNELS = 4


def _workload(request: Request) -> ConvertWorkload:
    assert isinstance(request.workload, ConvertWorkload)
    return request.workload


def _is_planar(work: ConvertWorkload) -> bool:
    """Whether channels-first differs from channels-last at all."""
    return work.channels_first and work.shape[-1] > 1 and math.prod(work.shape[1:-1]) > 1


def _positions(work: ConvertWorkload) -> int:
    """Positions that lie behind each other in the float tensor: of one image when planar, else of all."""
    return math.prod(work.shape[1:-1] if _is_planar(work) else work.shape[:-1])


def _parameters(request: Request) -> Parameters:
    work = _workload(request)
    planar = (work.shape[0], work.shape[-1], *work.shape[1:-1]) if work.channels_first else work.shape
    from_float, to_float = work.from_bits == FLOAT_BITS, work.to_bits == FLOAT_BITS

    def array(name: str, is_float: bool, shape: tuple[int, ...]) -> Parameter:
        return Parameter(
            name, shape if is_float else stored_shape(work.shape, False), "float32" if is_float else "uint8"
        )

    between: tuple[Parameter, ...] = ()
    if from_float != to_float:
        between = (Parameter("q", (8,), "int32"), Parameter("f", (4,), "float32"))
    elif not from_float:
        between = (Parameter("table", (256,), "uint8"),)
    out = array("out", to_float, work.shape if from_float else planar)
    return Parameters((array("x", from_float, planar),), between, out)


def _work(request: Request) -> Work:
    """Rows as wide as their wider side; what goes between channels-first and channels-last counts as staged."""
    work, parameters = _workload(request), _parameters(request)
    sides = (stored_shape(work.shape, bits == FLOAT_BITS) for bits in (work.from_bits, work.to_bits))
    return rowwise_work(
        parameters,
        vector_lanes(request),
        rows=math.prod(work.shape[:-1]),
        channels=max(side[-1] for side in sides),
        staged_bytes=array_bytes(parameters.activations) if _is_planar(work) else 0,
    )


def _write_quantize(request: Request, f: Function) -> None:
    work, threads = _workload(request), request.threads
    x, q, out = f.flat("x"), f.flat("q"), f.flat("out")
    channels, count = work.shape[-1], math.prod(work.shape[:-1])
    stored = out.size // count
    scale = let(f.flat("f")[0], "scale")
    to_bytes = ByteRange(q[0], q[2], q[3])

    def to_stored(value: Value) -> Value:
        return to_bytes.quantize(value / scale)

    def quantized(start: Value, lanes: int) -> Value:
        return to_stored(x.load(start, lanes))

    if stored == channels and not _is_planar(work):
        with flat(threads, x.size, _FLAT_LANES) as (i, lanes):
            out.store(i, quantized(i, lanes))
    elif stored == _IMAGE_CHANNELS and _positions(work) >= _LANES:
        _quantize_image(request, out, quantized, to_bytes.zero_point)
    elif _is_planar(work):
        turned = Transposition(work.shape[0], channels, _positions(work), _positions(work), stored)
        turned.write(threads, native_lanes(request.features), x.load, lambda i, value: out.store(i, to_stored(value)))
    else:
        with rows(threads, count, x.size) as r:
            for c, lanes in span(channels, _FLAT_LANES):
                out.store(r * stored + c, quantized(r * channels + c, lanes))
            fill_overlapping(out, r * stored + channels, to_bytes.zero_point, stored - channels)


def _quantize_image(request: Request, out: Buffer, quantized: Load, padding: Value) -> None:
    """Up to 4 channels: quantize one vector a channel, interleave them with the zero point to 4 bytes a position."""
    work = _workload(request)
    channels, positions, planar = work.shape[-1], _positions(work), _is_planar(work)
    with loop(work.shape[0] if planar else 1) as n, flat(request.threads, positions, _LANES) as (i, lanes):
        vectors = []
        for c in range(channels):
            start = (n * channels + c) * positions + i if planar else i * channels + c * lanes
            vectors.append(let(quantized(start, lanes), f"v_{c}"))
        # a shuffle may not give more lanes than it takes, hence one vector for every channel of the output
        vectors += [let(padding.broadcast(lanes), "v_z")] * (_IMAGE_CHANNELS - channels)
        order = []
        for position in range(lanes):
            for c in range(_IMAGE_CHANNELS):
                cell = c * lanes + position if planar else position * channels + c
                order.append(cell if c < channels else channels * lanes)
        out.store((n * positions + i) * _IMAGE_CHANNELS, shuffle(vectors, order))


def _write_dequantize(request: Request, f: Function) -> None:
    work, threads = _workload(request), request.threads
    x, out = f.flat("x"), f.flat("out")
    channels, count = work.shape[-1], math.prod(work.shape[:-1])
    stored = x.size // count
    zero_point, scale = let(f.flat("q")[0], "zero_point"), let(f.flat("f")[0], "scale")

    def real(value: Value) -> Value:
        return centered(value, zero_point) * scale

    if _is_planar(work):
        turned = Transposition(work.shape[0], _positions(work), channels, stored, _positions(work))
        turned.write(threads, native_lanes(request.features), lambda i, lanes: real(x.load(i, lanes)), out.store)
    elif stored == channels:
        with flat(threads, out.size, _FLAT_LANES) as (i, lanes):
            out.store(i, real(x.load(i, lanes)))
    else:
        with rows(threads, count, out.size) as r:
            for c, lanes in span(channels, _FLAT_LANES):
                out.store(r * channels + c, real(x.load(r * stored + c, lanes)))


def _write_requantize(request: Request, f: Function, wide: bool) -> None:
    look_up_all(request.threads, f.flat("table"), f.flat("x"), f.flat("out"), wide)


def _write_layout(request: Request, f: Function) -> None:
    work, threads = _workload(request), request.threads
    x, out = f.flat("x"), f.flat("out")
    channels, positions = work.shape[-1], _positions(work)
    if not _is_planar(work):
        with flat(threads, x.size, _FLAT_LANES) as (i, lanes):
            out.store(i, x.load(i, lanes))
    else:
        turned = Transposition(work.shape[0], channels, positions, positions, channels)
        turned.write(threads, native_lanes(request.features), x.load, out.store)


def _to_bytes(request: Request, operands: Operands) -> list[np.ndarray]:
    return quant_rows(_output(operands))


def _to_float(request: Request, operands: Operands) -> list[np.ndarray]:
    x = constants.integer_input(operands, 0)
    return [int_row(x.zero_point), float_row(x.scale)]


def _to_other_bytes(request: Request, operands: Operands) -> list[np.ndarray]:
    return [activations.requantize_table(constants.integer_input(operands, 0), _output(operands))]


def _output(operands: Operands) -> TensorQuant:
    if operands.output is None:
        raise InvalidValueError("a conversion to integers needs an output TensorQuant (got none)")
    return operands.output


def _accepts(from_float: bool, to_float: bool) -> Callable[[Request], bool]:
    """Whether a convert goes this way, at the bits of (one of) its integer sides, in a layout that is defined."""

    def accepts(request: Request) -> bool:
        work, precision = _workload(request), request.precision
        return (
            (work.from_bits == FLOAT_BITS, work.to_bits == FLOAT_BITS) == (from_float, to_float)
            and request.out_bits == work.to_bits
            and precision.weight_bits == precision.activation_bits
            and precision.activation_bits in (work.from_bits, work.to_bits)
            and (from_float or to_float or not work.channels_first)
        )

    return accepts


for _name, _float_in, _float_out, _features, _write, _constants in (
    ("f32_qu8_convert__generic", True, False, GENERIC, _write_quantize, _to_bytes),
    ("qu8_f32_convert__generic", False, True, GENERIC, _write_dequantize, _to_float),
    ("f32_f32_convert__generic", True, True, GENERIC, _write_layout, lambda request, operands: []),
    ("qu8_table_convert__generic", False, False, GENERIC, partial(_write_requantize, wide=False), _to_other_bytes),
    ("qu8_table_convert__avx512vbmi", False, False, VBMI, partial(_write_requantize, wide=True), _to_other_bytes),
):
    add_row(
        _name,
        ConvertWorkload,
        features=_features,
        dtype=DType.FP32 if _float_in and _float_out else DType.INT,
        ranges="any float32 (NaN gives 0), integers 0..255",
        accepts=_accepts(_float_in, _float_out),
        parameters=_parameters,
        write=_write,
        work=_work,
        constants=_constants,
    )
