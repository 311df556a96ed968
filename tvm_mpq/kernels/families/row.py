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

    return framed_row(
        name,
        features,
        accepts,
        frame,
        build_convolution,
        lambda request: knob_space(request, machine_of(request)),
        constants,
        ranges,
        weight_bits=weight_bits,
        variant=variant,
        max_terms=max_terms,
        input_dilation=True,
    )


class Frame(Protocol):
    """The loops of one kernel, as they are planned from a request and knobs."""

    @property
    def parameters(self) -> Parameters: ...

    @property
    def work(self) -> Work: ...


F = TypeVar("F", bound=Frame)


def framed_row(
    name: str,
    features: frozenset[str],
    accepts: Callable[[Request], bool],
    frame: Callable[[Request, Knobs], F],
    build: Callable[[F], PrimFunc],
    knob_space: Callable[[Request], list[Knobs]],
    constants: Callable[[Request, Knobs, Operands], list[np.ndarray]],
    ranges: str = "x 0..255, w -127..127",
    *,
    weight_bits: frozenset[int] = BITS,
    activation_bits: frozenset[int] = BITS,
    variant: Callable[[Request], object] = lambda request: None,
    max_terms: Callable[[Request], int] = int32_terms,
    input_dilation: bool = False,
) -> Family:
    """Add the row of a convolution that `frame` plans and `build` writes; see `Family` for what the others are."""
    return register(
        Family(
            name=name,
            workload_type=Conv2dWorkload,
            isa_features=features,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            operand_ranges=ranges,
            accepts=accepts,
            knob_space=knob_space,
            build=lambda request, knobs: build(frame(request, knobs)),
            constants=constants,
            variant=variant,
            max_terms=max_terms,
            parameters=lambda request, knobs: frame(request, knobs).parameters,
            work=lambda request, knobs: frame(request, knobs).work,
            input_dilation=input_dilation,
        )
    )
