"""One row of the kernel table: an integer convolution that is the frame around a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.families.terms import int32_terms
from tvm_mpq.kernels.frames.convolution import ConvolutionFrame
from tvm_mpq.kernels.frames.machine import ConvolutionMachine
from tvm_mpq.kernels.packing.dense import integer_constants, packed_weight, with_ranges
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.numerics.constants import ConvConstants
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload

BITS = frozenset(range(1, 9))
"""Of weights and activations, where a machine takes any."""

M = TypeVar("M", bound=ConvolutionMachine)
Packed = npt.NDArray[np.generic]


def convolution_row(
    name: str,
    features: frozenset[str],
    accepts: Callable[[Request], bool],
    machine_of: Callable[[Request], M],
    knob_space: Callable[[Request, M], list[Knobs]],
    ranges: str = "x 0..255, w -127..127",
    *,
    weight_bits: frozenset[int] = BITS,
    variant: Callable[[Request], object] = lambda request: None,
    max_terms: Callable[[Request], int] = int32_terms,
    finish: Callable[[Request, ConvConstants, Packed], list[np.ndarray]] = with_ranges,
) -> Family:
    """Add the row. finish: all constants, from the numbers and the packed weights."""

    def constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
        numbers = integer_constants(request, operands)
        return finish(request, numbers, packed_weight(request, machine_of(request), numbers.weight))

    def frame(request: Request, knobs: Knobs) -> ConvolutionFrame:
        return ConvolutionFrame(request, knobs, machine_of(request))

    return register(
        Family(
            name=name,
            workload_type=Conv2dWorkload,
            isa_features=features,
            weight_bits=weight_bits,
            activation_bits=BITS,
            operand_ranges=ranges,
            accepts=accepts,
            knob_space=lambda request: knob_space(request, machine_of(request)),
            build=lambda request, knobs: frame(request, knobs).build(),
            constants=constants,
            variant=variant,
            max_terms=max_terms,
            parameters=lambda request, knobs: frame(request, knobs).parameters,
            work=lambda request, knobs: frame(request, knobs).work,
            input_dilation=True,
        )
    )
