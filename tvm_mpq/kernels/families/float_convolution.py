"""Rows of the float convolutions.

f32_conv2d    dense convolutions and linear layers: inputs broadcast, output channels in vectors, register tiles
f32_gconv2d   any other number of groups, with the same code inside each group
f32_dwconv2d  one input and one output channel a group: channels in vectors
bf16_conv2d, bf16_gconv2d  the first two with operands rounded to bfloat16, where the machine multiplies pairs of them
"""

from __future__ import annotations

import numpy as np
from tvm.tirx import PrimFunc

from tvm_mpq.kernels.families.accept import has_phases, is_float
from tvm_mpq.kernels.features import AVX512_BF16, GENERIC
from tvm_mpq.kernels.frames.float_convolution import FloatConvolution
from tvm_mpq.kernels.frames.float_depthwise import build_depthwise, depthwise_parameters, depthwise_work
from tvm_mpq.kernels.frames.float_product import FloatProduct
from tvm_mpq.kernels.knobs.float_convolution import conv_tiles, depthwise_tiles
from tvm_mpq.kernels.machines.bfloat16_512 import LANES, Bfloat16Pairs
from tvm_mpq.kernels.machines.float32 import Float32
from tvm_mpq.kernels.packing.float_convolution import pack_depthwise, pack_direct, weight_and_bias
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.shapes.geometry import conv_of
from tvm_mpq.kernels.work import Work
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import BF16, FLOAT_BITS, FP32, Conv2dWorkload, DType

_FLOAT = frozenset({FLOAT_BITS})
_RANGES = "float32; sums in float32, one rounding per multiply-add, kernel position by kernel position"
_BFLOAT_RANGES = "float32 rounded to bfloat16, nearest even; products exact, sums in float32"


def _direct_family(name: str, product: FloatProduct, grouped: bool) -> Family:
    pairs = product.width > 1

    def accepts(request: Request) -> bool:
        w = conv_of(request)
        return is_float(request) and (w.groups > 1) is grouped and (not pairs or _in_pairs(w)) and has_phases(request)

    def knob_space(request: Request) -> list[Knobs]:
        return conv_tiles(conv_of(request), request.features, product.lanes)

    def build(request: Request, knobs: Knobs) -> PrimFunc:
        return FloatConvolution(request, knobs, product).build()

    def parameters(request: Request, knobs: Knobs) -> Parameters:
        return FloatConvolution(request, knobs, product).parameters

    def work(request: Request, knobs: Knobs) -> Work:
        return FloatConvolution(request, knobs, product).work

    def constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
        return list(pack_direct(conv_of(request), knobs, product, *weight_and_bias(operands)))

    precision = BF16 if pairs else FP32
    bits = frozenset({precision.weight_bits})
    return register(
        Family(
            name,
            Conv2dWorkload,
            isa_features=AVX512_BF16 if pairs else GENERIC,
            weight_bits=bits,
            activation_bits=bits,
            operand_ranges=_BFLOAT_RANGES if pairs else _RANGES,
            accepts=accepts,
            knob_space=knob_space,
            build=build,
            constants=constants,
            dtype=precision.dtype,
            parameters=parameters,
            work=work,
            input_dilation=not pairs,
        )
    )


def _in_pairs(w: Conv2dWorkload) -> bool:
    """Sixteen output channels share a pair of inputs, which must not reach into the next group."""
    return w.out_channels // w.groups >= LANES and (w.groups == 1 or w.in_channels // w.groups % 2 == 0)


def _is_plain_depthwise(w: Conv2dWorkload) -> bool:
    return w.is_depthwise and w.out_channels == w.in_channels


CONV2D = _direct_family("f32_conv2d__generic", Float32(), grouped=False)
GCONV2D = _direct_family("f32_gconv2d__generic", Float32(), grouped=True)
DWCONV2D = register(
    Family(
        name="f32_dwconv2d__generic",
        workload_type=Conv2dWorkload,
        isa_features=GENERIC,
        weight_bits=_FLOAT,
        activation_bits=_FLOAT,
        operand_ranges=_RANGES,
        accepts=lambda request: is_float(request) and _is_plain_depthwise(conv_of(request)),
        knob_space=lambda request: depthwise_tiles(conv_of(request), request.features),
        build=build_depthwise,
        constants=lambda request, knobs, operands: pack_depthwise(conv_of(request), *weight_and_bias(operands)),
        dtype=DType.FP32,
        parameters=lambda request, knobs: depthwise_parameters(request),
        work=depthwise_work,
    )
)
BF16_CONV2D = _direct_family("bf16_conv2d__avx512bf16", Bfloat16Pairs(), grouped=False)
BF16_GCONV2D = _direct_family("bf16_gconv2d__avx512bf16", Bfloat16Pairs(), grouped=True)
