"""The rows of the float convolution families."""

from __future__ import annotations

import numpy as np
from tvm.tirx import PrimFunc

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.float_conv.activations import is_known
from tvm_mpq.kernels.float_conv.depthwise import build_depthwise, depthwise_tiles, pack_depthwise
from tvm_mpq.kernels.float_conv.direct import build_direct
from tvm_mpq.kernels.float_conv.packing import pack_direct
from tvm_mpq.kernels.float_conv.tiling import Geometry, conv_tiles
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload

_FLOAT = frozenset({FLOAT_BITS})
_RANGES = "float32; sums in float32, one rounding per multiply-add, kernel position by kernel position"


def register_rows() -> tuple[Family, Family, Family]:
    """Dense, grouped and depthwise, in this order."""
    return (
        register(_direct_family("f32_conv2d__generic", grouped=False, rank=10)),
        register(_direct_family("f32_gconv2d__generic", grouped=True, rank=0)),
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
    )


def _direct_family(name: str, grouped: bool, rank: int) -> Family:
    def accepts(request: Request) -> bool:
        return _served(request) and (_workload(request).groups > 1) is grouped

    def knob_space(request: Request) -> list[Knobs]:
        return [dict(k) for k in conv_tiles(Geometry.of(_workload(request)), request.features)]

    def build(request: Request, knobs: Knobs) -> PrimFunc:
        return build_direct(_workload(request), knobs, request.threads)

    def constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
        return list(pack_direct(_workload(request), knobs, *_arrays(operands)))

    return Family(
        name, Conv2dWorkload, frozenset(), _FLOAT, _FLOAT, _RANGES, accepts, knob_space, build, constants, rank
    )


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
