"""One row of the kernel table: an integer convolution, by the frame around a machine or by a frame of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from tvm.tirx import PrimFunc

from tvm_mpq.kernels.families.terms import int32_terms
from tvm_mpq.kernels.frames.convolution import ConvolutionFrame
from tvm_mpq.kernels.frames.convolution_writer import build_convolution
from tvm_mpq.kernels.frames.machine import ConvolutionMachine
from tvm_mpq.kernels.packing.constants import convolution_constants
from tvm_mpq.kernels.packing.dense import packed_weight
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.work import Work
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload

BITS = frozenset(range(1, 9))
"""Bits of weights and of activations for machines that take any."""

M = TypeVar("M", bound=ConvolutionMachine)


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
) -> Family:
    """Add the row; see `Family` for what the arguments are."""

    def constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
        machine = machine_of(request)
        pack = partial(packed_weight, request, machine)
        return convolution_constants(request, operands, pack, taken=machine.taken)

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
            build=lambda request, knobs: build_convolution(frame(request, knobs)),
            constants=constants,
            variant=variant,
            max_terms=max_terms,
            parameters=lambda request, knobs: frame(request, knobs).parameters,
            work=lambda request, knobs: frame(request, knobs).work,
            input_dilation=True,
        )
    )


class OwnFrame(Protocol):
    """The loops of one kernel, as they are planned from a request and knobs."""

    @property
    def parameters(self) -> Parameters: ...

    @property
    def work(self) -> Work: ...

    def build(self) -> PrimFunc: ...


def depthwise_row(
    name: str,
    features: frozenset[str],
    accepts: Callable[[Request], bool],
    frame: Callable[[Request, Knobs], OwnFrame],
    knob_space: Callable[[Request], list[Knobs]],
    constants: Callable[[Request, Knobs, Operands], list[np.ndarray]],
    *,
    variant: Callable[[Request], object] = lambda request: None,
) -> Family:
    """Add the row of a depthwise convolution with a frame of its own; see `Family` for what the arguments are."""
    return register(
        Family(
            name=name,
            workload_type=Conv2dWorkload,
            isa_features=features,
            weight_bits=BITS,
            activation_bits=BITS,
            operand_ranges="x 0..255, w -127..127",
            accepts=accepts,
            knob_space=knob_space,
            build=lambda request, knobs: frame(request, knobs).build(),
            constants=constants,
            variant=variant,
            max_terms=int32_terms,
            parameters=lambda request, knobs: frame(request, knobs).parameters,
            work=lambda request, knobs: frame(request, knobs).work,
        )
    )
