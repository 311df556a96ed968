"""Rows of the kernel table for AVX-VNNI: x86 clients without AVX-512."""

from __future__ import annotations

import numpy as np

from tvm_mpq.kernels.families.accept import is_dense, is_depthwise, is_grouped
from tvm_mpq.kernels.families.row import convolution_row, framed_row
from tvm_mpq.kernels.features import AVX_VNNI
from tvm_mpq.kernels.knobs.avxvnni import depthwise_vnni_256, tiles_vnni_256
from tvm_mpq.kernels.machines.avxvnni import AvxVnni
from tvm_mpq.kernels.machines.avxvnni_depthwise import HalfDepthwiseFrame
from tvm_mpq.kernels.packing.constants import convolution_constants
from tvm_mpq.kernels.packing.depthwise import pack_depthwise
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import conv_of
from tvm_mpq.numerics.operands import Operands

_TALLEST = 5
"""Rows and columns of kernels whose weights of one vector 16 registers hold, or nearly."""


def _depthwise_constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    lanes = HalfDepthwiseFrame.lanes
    return convolution_constants(request, operands, lambda weight: pack_depthwise(request, knobs, weight, lanes))


convolution_row("qu8_qs8_s32_conv2d__avxvnni", AVX_VNNI, is_dense, lambda r: AvxVnni(), tiles_vnni_256)
convolution_row("qu8_qs8_s32_gconv2d__avxvnni", AVX_VNNI, is_grouped, lambda r: AvxVnni(), tiles_vnni_256)
framed_row(
    "qu8_qs8_s32_dwconv2d__avxvnni",
    AVX_VNNI,
    lambda request: is_depthwise(request) and max(conv_of(request).kernel) <= _TALLEST,
    HalfDepthwiseFrame,
    HalfDepthwiseFrame.build,
    depthwise_vnni_256,
    _depthwise_constants,
)
