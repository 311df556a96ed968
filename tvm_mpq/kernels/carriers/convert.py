"""Boundaries between storage formats: quantize, dequantize, change of bits or range, and NCHW to channels-last floats.

Up to 4 channels (images) are interleaved in registers, 16 positions at a time; more channels of a channels-first side
are walked with strided accesses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.carriers.common import (
    FLOAT_ONLY,
    GENERIC,
    INTEGER_BITS,
    Carrier,
    centered,
    float_row,
    int_row,
    one_choice,
    rounded,
    splat,
    stored_shape,
    vec,
)
from tvm_mpq.kernels.carriers.lookup import VBMI, lookup_all
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.tir import Script
from tvm_mpq.numerics import activations, affine, constants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, ConvertWorkload, TensorQuant, padded_channels

_LANES = 16
_FLAT_LANES = 32
_IMAGE_CHANNELS = 4


def _workload(request: Request) -> ConvertWorkload:
    assert isinstance(request.workload, ConvertWorkload)
    return request.workload


def _float_shape(work: ConvertWorkload) -> tuple[int, ...]:
    return (work.shape[0], work.shape[-1], *work.shape[1:-1]) if work.channels_first else work.shape


def _is_planar(work: ConvertWorkload) -> bool:
    """Whether channels-first differs from channels-last at all."""
    return work.channels_first and work.shape[-1] > 1 and math.prod(work.shape[1:-1]) > 1


def _quantized(value: str, lanes: int) -> str:
    return rounded(f"{value} / {splat('scale', lanes)}", lanes)


def _build_quantize(request: Request, knobs: Knobs) -> Script:
    work = _workload(request)
    channels, stored = work.shape[-1], padded_channels(work.shape[-1])
    code = Carrier(
        request,
        [
            ("x", _float_shape(work), "float32"),
            ("q", (8,), "int32"),
            ("f", (4,), "float32"),
            ("out", stored_shape(work.shape, False), "uint8"),
        ],
    )
    code.let("scale", "f[0]")
    code.rounding("q[0]", "q[2]", "q[3]")
    if stored == channels and not _is_planar(work):
        with code.flat(math.prod(work.shape), _FLAT_LANES) as lanes:
            code.line(f"{vec('out', 'i', lanes)} = {_quantized(vec('x', 'i', lanes), lanes)}")
    elif stored == _IMAGE_CHANNELS and _positions(work) >= _LANES:
        _quantize_image(code, work)
    elif _is_planar(work):
        with _planes(code, work) as lanes:
            code.line(f"{_strided('out', stored, lanes)} = {_quantized(vec('x', 'cell', lanes), lanes)}")
        if stored > channels:
            with code.rows("r", math.prod(work.shape[:-1]), math.prod(work.shape)):
                code.fill("out", f"r * {stored} + {channels}", stored - channels, "z_byte", _LANES)
    else:
        with code.rows("r", math.prod(work.shape[:-1]), math.prod(work.shape)):
            with code.span("c", channels, _FLAT_LANES) as lanes:
                value = _quantized(vec("x", f"r * {channels} + c", lanes), lanes)
                code.line(f"{vec('out', f'r * {stored} + c', lanes)} = {value}")
            code.fill("out", f"r * {stored} + {channels}", stored - channels, "z_byte", _LANES)
    return code.build()


def _build_dequantize(request: Request, knobs: Knobs) -> Script:
    work = _workload(request)
    channels, stored = work.shape[-1], padded_channels(work.shape[-1])
    code = Carrier(
        request,
        [
            ("x", stored_shape(work.shape, False), "uint8"),
            ("q", (8,), "int32"),
            ("f", (4,), "float32"),
            ("out", _float_shape(work), "float32"),
        ],
    )
    code.let("zero_point", "q[0]")
    code.let("scale", "f[0]")

    def real(value: str, lanes: int) -> str:
        return f"{centered(value, 'zero_point', lanes)} * {splat('scale', lanes)}"

    if _is_planar(work):
        with _planes(code, work) as lanes:
            code.line(f"{vec('out', 'cell', lanes)} = {real(_strided('x', stored, lanes), lanes)}")
    elif stored == channels:
        with code.flat(math.prod(work.shape), _FLAT_LANES) as lanes:
            code.line(f"{vec('out', 'i', lanes)} = {real(vec('x', 'i', lanes), lanes)}")
    else:
        with code.rows("r", math.prod(work.shape[:-1]), math.prod(work.shape)):
            with code.span("c", channels, _FLAT_LANES) as lanes:
                value = real(vec("x", f"r * {stored} + c", lanes), lanes)
                code.line(f"{vec('out', f'r * {channels} + c', lanes)} = {value}")
    return code.build()


def _build_requantize(request: Request, knobs: Knobs, vbmi: bool) -> Script:
    shape = stored_shape(_workload(request).shape, False)
    code = Carrier(request, [("x", shape, "uint8"), ("table", (256,), "uint8"), ("out", shape, "uint8")])
    lookup_all(code, math.prod(shape), vbmi)
    return code.build()


def _build_layout(request: Request, knobs: Knobs) -> Script:
    work = _workload(request)
    channels, positions = work.shape[-1], _positions(work)
    code = Carrier(request, [("x", _float_shape(work), "float32"), ("out", work.shape, "float32")])
    if not _is_planar(work):
        with code.flat(math.prod(work.shape), _FLAT_LANES) as lanes:
            code.line(f"{vec('out', 'i', lanes)} = {vec('x', 'i', lanes)}")
    elif channels <= _IMAGE_CHANNELS and positions >= _LANES:
        with code.block(f"for n in range({work.shape[0]}):"), code.flat(positions, _LANES) as lanes:
            for c in range(channels):
                code.let(f"v_{c}", vec("x", f"(n * {channels} + {c}) * {positions} + i", lanes))
            names = ", ".join(f"v_{c}" for c in range(channels))
            for part in range(channels):
                cells = range(part * lanes, (part + 1) * lanes)
                order = [cell % channels * lanes + cell // channels for cell in cells]
                target = vec("out", f"(n * {positions} + i) * {channels} + {part * lanes}", lanes)
                code.line(f"{target} = T.Shuffle([{names}], {order})")
    else:
        with _planes(code, work) as lanes:
            code.line(f"{_strided('out', channels, lanes)} = {vec('x', 'cell', lanes)}")
    return code.build()


def _positions(work: ConvertWorkload) -> int:
    """Positions that lie behind each other in the float tensor: of one image when planar, else of all."""
    return math.prod(work.shape[1:-1] if _is_planar(work) else work.shape[:-1])


def _quantize_image(code: Carrier, work: ConvertWorkload) -> None:
    """Up to 4 channels: quantize one vector a channel, interleave them with the zero point to 4 bytes a position."""
    channels, positions, planar = work.shape[-1], _positions(work), _is_planar(work)
    images = work.shape[0] if planar else 1
    with code.block(f"for n in range({images}):"), code.flat(positions, _LANES) as lanes:
        for c in range(channels):
            start = f"(n * {channels} + {c}) * {positions} + i" if planar else f"i * {channels} + {c * lanes}"
            code.let(f"v_{c}", _quantized(vec("x", start, lanes), lanes))
        code.let("v_z", splat("z_byte", lanes))
        order = []
        for position in range(lanes):
            for c in range(_IMAGE_CHANNELS):
                cell = c * lanes + position if planar else position * channels + c
                order.append(cell if c < channels else channels * lanes)
        # a shuffle may not give more lanes than it takes, hence one vector for every channel of the output
        names = ", ".join([*(f"v_{c}" for c in range(channels)), *["v_z"] * (_IMAGE_CHANNELS - channels)])
        target = vec("out", f"(n * {positions} + i) * {_IMAGE_CHANNELS}", lanes * _IMAGE_CHANNELS)
        code.line(f"{target} = T.Shuffle([{names}], {order})")


@contextmanager
def _planes(code: Carrier, work: ConvertWorkload) -> Iterator[int]:
    """Loops over positions and channels of a channels-first tensor.

    Binds c, cell (index of its first element in the channels-first tensor) and row (of the channels-last one).
    """
    channels, positions = work.shape[-1], _positions(work)
    images = work.shape[0]
    with code.rows("n", images, math.prod(work.shape)), code.span("p", positions, _LANES) as lanes:
        code.let("row", f"n * {positions} + p")
        with code.block(f"for c in range({channels}):"):
            code.let("cell", f"(n * {channels} + c) * {positions} + p")
            yield lanes


def _strided(buffer: str, stride: int, lanes: int) -> str:
    """Channel c of `lanes` neighbouring rows of a channels-last buffer."""
    start = f"row * {stride} + c"
    return f"{buffer}[{start}]" if lanes == 1 else f"{buffer}[T.Ramp({start}, {stride}, {lanes})]"


def _to_bytes(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    out = _output(operands)
    low, high = affine.unsigned_range(out.bits)
    return [int_row(out.zero_point, 0, low, high), float_row(out.scale)]


def _to_float(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    x = constants.integer_input(operands, 0)
    return [int_row(x.zero_point), float_row(x.scale)]


def _to_other_bytes(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
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


for _name, _float_in, _float_out, _features, _build, _constants in (
    ("f32_qu8_convert__generic", True, False, GENERIC, _build_quantize, _to_bytes),
    ("qu8_f32_convert__generic", False, True, GENERIC, _build_dequantize, _to_float),
    ("f32_f32_convert__generic", True, True, GENERIC, _build_layout, lambda request, knobs, operands: []),
    ("qu8_table_convert__generic", False, False, GENERIC, partial(_build_requantize, vbmi=False), _to_other_bytes),
    ("qu8_table_convert__avx512vbmi", False, False, VBMI, partial(_build_requantize, vbmi=True), _to_other_bytes),
):
    _bits = FLOAT_ONLY if _float_in and _float_out else INTEGER_BITS
    register(
        Family(
            name=_name,
            workload_type=ConvertWorkload,
            isa_features=_features,
            weight_bits=_bits,
            activation_bits=_bits,
            operand_ranges="any float32 (NaN gives 0), integers 0..255",
            accepts=_accepts(_float_in, _float_out),
            knob_space=one_choice,
            build=_build,
            constants=_constants,
            rank=len(_features),
        )
    )
