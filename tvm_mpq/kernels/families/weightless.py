"""What the rows of operators without weights have in common: they move or combine activations, and have no knobs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import Function, function
from tvm_mpq.kernels.features import GENERIC, native_lanes
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.work import Work, rowwise_work
from tvm_mpq.numerics.affine import unsigned_range
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, DType, TensorQuant, Workload, padded_channels

_BITS = {DType.INT: frozenset(range(1, 9)), DType.FP32: frozenset({FLOAT_BITS})}

_BYTE_LANES = 16  # what a stored row of channels is a multiple of


def add_row(
    name: str,
    workload_type: type[Workload],
    *,
    ranges: str,
    accepts: Callable[[Request], bool],
    parameters: Callable[[Request], Parameters],
    write: Callable[[Request, Function], None],
    constants: Callable[[Request, Operands], list[np.ndarray]] = lambda request, operands: [],
    features: frozenset[str] = GENERIC,
    dtype: DType = DType.INT,
    max_terms: Callable[[Request], int | None] = lambda request: None,
    work: Callable[[Request], Work] | None = None,
) -> None:
    """Register the family `name`; `write` writes its body into a function over `parameters`. See `Family`.

    work: if it is not just that every vector of activations is read and combined.
    """

    def plain_work(request: Request) -> Work:
        return rowwise_work(parameters(request), vector_lanes(request))

    def build(request: Request, knobs: Knobs) -> PrimFunc:
        with function(parameters(request).all()) as f:
            write(request, f)
        return f.func

    register(
        Family(
            name=name,
            workload_type=workload_type,
            isa_features=features,
            weight_bits=_BITS[dtype],
            activation_bits=_BITS[dtype],
            operand_ranges=ranges,
            accepts=accepts,
            knob_space=lambda request: [{}],
            build=build,
            constants=lambda request, knobs, operands: constants(request, operands),
            dtype=dtype,
            parameters=lambda request, knobs: parameters(request),
            work=lambda request, knobs: (work or plain_work)(request),
            max_terms=max_terms,
        )
    )


def stored_shape(shape: tuple[int, ...], is_float: bool) -> tuple[int, ...]:
    """The physical shape of a channels-last tensor."""
    return shape if is_float else (*shape[:-1], padded_channels(shape[-1]))


def vector_lanes(request: Request) -> int:
    """Channels of one vector."""
    return _BYTE_LANES if request.precision.dtype is DType.INT else native_lanes(request.features)


def is_integer(request: Request) -> bool:
    """Bytes in, bytes out."""
    precision = request.precision
    return precision.weight_bits == precision.activation_bits and request.out_bits <= 8


def is_float(request: Request) -> bool:
    """Floats out."""
    return request.out_bits == FLOAT_BITS


def dtype_of(request: Request) -> str:
    """Of an operator whose inputs and output are alike."""
    return "float32" if is_float(request) else "uint8"


def int_row(*values: int, size: int = 8) -> npt.NDArray[np.int32]:
    """int32[size], zeros at the end."""
    row = np.zeros(size, np.int32)
    row[: len(values)] = values
    return row


def float_row(*values: npt.ArrayLike, size: int = 4) -> FloatArray:
    """float32[size], zeros at the end."""
    row = np.zeros(size, np.float32)
    for i, value in enumerate(values):
        row[i] = value
    return row


def quant_rows(quant: TensorQuant) -> list[np.ndarray]:
    """int32[8] (zero point, 0, least, greatest) and float32[4] (scale) of a tensor of bytes."""
    return [int_row(quant.zero_point, 0, *unsigned_range(quant.bits)), float_row(quant.scale)]
