"""The rows of the float convolution families."""

from __future__ import annotations

import numpy as np

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit.activations import is_known
from tvm_mpq.kernels.float_conv.depthwise import build_depthwise, depthwise_tiles, pack_depthwise
from tvm_mpq.kernels.float_conv.direct import build_direct
from tvm_mpq.kernels.float_conv.packing import pack_direct
from tvm_mpq.kernels.float_conv.products import BFLOAT16, FLOAT32, Product
from tvm_mpq.kernels.float_conv.tiling import Geometry, conv_tiles
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.tir import Script
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import BF16, FLOAT_BITS, Conv2dWorkload

_FLOAT = frozenset({FLOAT_BITS})
_RANGES = "float32; sums in float32, one rounding per multiply-add, kernel position by kernel position"
_BFLOAT_RANGES = "float32 rounded to bfloat16, nearest even; products exact, sums in float32"


def register_rows() -> tuple[Family, ...]:
    """Dense, grouped and depthwise, then dense and grouped in bfloat16."""
    return (
        register(_direct_family("f32_conv2d__generic", FLOAT32, grouped=False, rank=10)),
        register(_direct_family("f32_gconv2d__generic", FLOAT32, grouped=True, rank=0)),
        register(
            Family(
                name="f32_dwconv2d__generic",
                workload_type=Conv2dWorkload,
                isa_features=frozenset(),
                weight_bits=_FLOAT,
                activation_bits=_FLOAT,
                operand_ranges=_RANGES,
                accepts=lambda request: _served(request) and _is_plain_depthwise(_workload(request)),
                knob_space=lambda request: [dict(k) for k in depthwise_tiles(_workload(request), request.features)],
                build=lambda request, knobs: build_depthwise(_workload(request), knobs, request.threads),
                constants=lambda request, knobs, operands: pack_depthwise(_workload(request), *_arrays(operands)),
                rank=10,
            )
        ),
        register(_direct_family("bf16_conv2d__avx512bf16", BFLOAT16, grouped=False, rank=10)),
        register(_direct_family("bf16_gconv2d__avx512bf16", BFLOAT16, grouped=True, rank=0)),
    )


def _direct_family(name: str, product: Product, grouped: bool, rank: int) -> Family:
    pairs = product is BFLOAT16
    lanes = BFLOAT16.LANES if pairs else None

    def accepts(request: Request) -> bool:
        w = _workload(request)
        return _served(request) and (w.groups > 1) is grouped and (not pairs or _in_pairs(w))

    def knob_space(request: Request) -> list[Knobs]:
        return [dict(k) for k in conv_tiles(Geometry.of(_workload(request)), request.features, lanes)]

    def build(request: Request, knobs: Knobs) -> Script:
        return build_direct(_workload(request), knobs, product, request.threads)

    def constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
        return list(pack_direct(_workload(request), knobs, product, *_arrays(operands)))

    bits = frozenset({BF16.weight_bits}) if pairs else _FLOAT
    features = frozenset({"avx512bf16"}) if pairs else frozenset[str]()
    ranges = _BFLOAT_RANGES if pairs else _RANGES
    return Family(name, Conv2dWorkload, features, bits, bits, ranges, accepts, knob_space, build, constants, rank)


def _in_pairs(w: Conv2dWorkload) -> bool:
    """Sixteen output channels share a pair of inputs, which must not reach into the next group."""
    return w.out_channels // w.groups >= BFLOAT16.LANES and (w.groups == 1 or w.in_channels // w.groups % 2 == 0)


def _workload(request: Request) -> Conv2dWorkload:
    assert isinstance(request.workload, Conv2dWorkload), "Family.fits has checked the type"
    return request.workload


def _served(request: Request) -> bool:
    return request.out_bits == FLOAT_BITS and is_known(_workload(request).activation)


def _is_plain_depthwise(w: Conv2dWorkload) -> bool:
    return w.is_depthwise and w.out_channels == w.in_channels


def _arrays(operands: Operands) -> tuple[np.ndarray, np.ndarray]:
    if operands.weight is None or operands.bias is None:
        raise InvalidValueError("a float convolution needs a weight and a bias (zeros when the layer has none)")
    return operands.weight, operands.bias
