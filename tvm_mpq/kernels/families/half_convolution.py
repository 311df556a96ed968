"""Rows of the convolutions in halves, dense ones (linear layers among them) and grouped ones.

Depthwise convolutions have none: their few products wait for float32 tensors, as those of float32 do.
"""

from __future__ import annotations

import numpy as np
from tvm.tirx import PrimFunc

from tvm_mpq.kernels.families.accept import is_float
from tvm_mpq.kernels.features import FULLFP16
from tvm_mpq.kernels.frames.half_convolution import HalfConvolution
from tvm_mpq.kernels.knobs.float_convolution import conv_tiles
from tvm_mpq.kernels.machines.neon_halves import LANES, NeonHalves
from tvm_mpq.kernels.packing.float_convolution import by_vector, pack_direct, weight_and_bias
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.shapes.geometry import conv_of
from tvm_mpq.kernels.work import Work
from tvm_mpq.numerics import float16
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FP16, Conv2dWorkload

_RANGES = (
    f"float32 rounded to halves, within +-65504; sums of at most {float16.BLOCK_TERMS} terms in halves, then float32"
)
_PRODUCT = NeonHalves()


def _knobs(request: Request) -> list[Knobs]:
    return conv_tiles(conv_of(request), request.features, LANES)


def _build(request: Request, knobs: Knobs) -> PrimFunc:
    return HalfConvolution(request, knobs, _PRODUCT).build()


def _parameters(request: Request, knobs: Knobs) -> Parameters:
    return HalfConvolution(request, knobs, _PRODUCT).parameters


def _work(request: Request, knobs: Knobs) -> Work:
    return HalfConvolution(request, knobs, _PRODUCT).work


def _constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    w = conv_of(request)
    weight, bias = weight_and_bias(operands)
    scaled, inverse = float16.scaled_weight(w, weight)
    return [*pack_direct(w, knobs, _PRODUCT, scaled, bias), by_vector(w, knobs["lanes"], inverse)]


def _register(name: str, grouped: bool) -> Family:
    bits = frozenset({FP16.weight_bits})

    def accepts(request: Request) -> bool:
        w = conv_of(request)
        return is_float(request) and (w.groups > 1) is grouped and w.out_channels // w.groups >= LANES

    return register(
        Family(
            name,
            Conv2dWorkload,
            isa_features=FULLFP16,
            weight_bits=bits,
            activation_bits=bits,
            operand_ranges=_RANGES,
            accepts=accepts,
            knob_space=_knobs,
            build=_build,
            constants=_constants,
            dtype=FP16.dtype,
            parameters=_parameters,
            work=_work,
        )
    )


CONV2D = _register("f16_conv2d__fullfp16", grouped=False)
GCONV2D = _register("f16_gconv2d__fullfp16", grouped=True)
