"""Rows of the kernel table for integer convolutions: which machine, which operands, which shapes."""

from __future__ import annotations

from functools import partial

import numpy as np

from tvm_mpq.kernels.families.accept import is_dense, is_depthwise, is_grouped
from tvm_mpq.kernels.families.row import convolution_row, framed_row
from tvm_mpq.kernels.families.terms import scaled_terms
from tvm_mpq.kernels.features import AVX2, GENERIC, VNNI
from tvm_mpq.kernels.knobs.dense import small_tiles, tiles_512
from tvm_mpq.kernels.knobs.dense256 import byte_taps_256, depthwise_256, tiles_256
from tvm_mpq.kernels.knobs.depthwise import depthwise_knobs
from tvm_mpq.kernels.machines.avx2 import Bytes, Words, bytes_depth
from tvm_mpq.kernels.machines.avx2_depthwise import TapPairs
from tvm_mpq.kernels.machines.avx2_depthwise_bytes import ByteTapsFrame
from tvm_mpq.kernels.machines.portable import Elementwise, Scalar
from tvm_mpq.kernels.machines.vnni512 import Vnni, VnniNibble, VnniUnpacked
from tvm_mpq.kernels.machines.vnni512_depthwise import DepthwiseFrame
from tvm_mpq.kernels.packing.constants import convolution_constants
from tvm_mpq.kernels.packing.depthwise import lane_order, pack_depthwise
from tvm_mpq.kernels.packing.tap_sums import GROUP, pack_taps, tap_sums
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import conv_of
from tvm_mpq.numerics.affine import unsigned_range, weight_range
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import padded_channels

_PLANE_TAPS, _PLANE_COLUMNS = 9, 14
"""Where depthwise products of bytes by two planes of weights win over products of 16 bits: measured on Zen 3."""


def _short_depthwise(request: Request) -> bool:
    """The tile of the interleaved kernel is straight code, so its window must be small."""
    return is_depthwise(request) and max(conv_of(request).kernel) <= 7


def _nibbles(request: Request) -> bool:
    """Pairs of steps of four channels."""
    return is_dense(request) and padded_channels(conv_of(request).in_channels) % 8 == 0


def _nibble_terms(request: Request) -> int:
    """Sums are 16 times too large until they are shifted back."""
    p = request.precision
    return scaled_terms(request, 16 * unsigned_range(p.activation_bits)[1] * weight_range(p.weight_bits)[1])


def _words(request: Request) -> Words:
    w = conv_of(request)
    return Words(w.batch * w.out_height * w.out_width)


def _byte_taps(request: Request) -> bool:
    """Whole groups of channels, bytes out, and few enough sums of 16 bits; two planes of weights where they gain."""
    w = conv_of(request)
    whole = is_depthwise(request) and padded_channels(w.out_channels) >= GROUP and request.out_bits <= 8
    way = tap_sums(request) if whole else None
    if way is None or way.planes == 1:
        return way is not None
    return w.kernel[0] * w.kernel[1] <= _PLANE_TAPS and (w.stride[1] > 1 or w.out_width <= _PLANE_COLUMNS)


def _byte_taps_constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    way = tap_sums(request)
    assert way is not None
    return convolution_constants(request, operands, partial(pack_taps, way=way))


def _depthwise_constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    pack = partial(pack_depthwise, request, knobs)
    return convolution_constants(request, operands, pack, order=lane_order(request))


convolution_row("qu8_qs8_s32_conv2d__avx512vnni", VNNI, is_dense, lambda r: Vnni(), tiles_512)
# Weights of few bits are expanded in registers, beside the products: that costs nothing where bitwise operations have
# ports of their own. Expanding them once for all positions of a map pays where they have not, and where maps are large.
_nibble_row = partial(convolution_row, ranges="x 0..255, w -7..7", weight_bits=frozenset({1, 2, 3, 4}))
_nibble_row(
    "qu8_qc4s_s32_conv2d__avx512vnni", VNNI, _nibbles, lambda r: VnniNibble(), tiles_512, max_terms=_nibble_terms
)
_nibble_row("qu8_qc4s_s8_conv2d__avx512vnni", VNNI, is_dense, lambda r: VnniUnpacked(), tiles_512)
framed_row(
    "qu8_qs8_s32_dwconv2d__avx512vnni",
    VNNI,
    _short_depthwise,
    DepthwiseFrame,
    DepthwiseFrame.build,
    depthwise_knobs,
    _depthwise_constants,
)
convolution_row("qu8_qs8_s32_gconv2d__avx512vnni", VNNI, is_grouped, lambda r: Vnni(), tiles_512)

convolution_row(
    "qu8_qs8_s16_conv2d__avx2",
    AVX2,
    lambda r: is_dense(r) and bytes_depth(r) > 0,
    lambda r: Bytes(bytes_depth(r)),
    tiles_256,
    "2 * max(x) * max|w| <= 32767: w8a7, w7a8 and fewer bits",
    variant=bytes_depth,
)
convolution_row("qu8_qs8_s32_conv2d__avx2", AVX2, is_dense, _words, tiles_256)
framed_row(
    "qu8_qs8_s16_dwconv2d__avx2",
    AVX2,
    _byte_taps,
    ByteTapsFrame,
    ByteTapsFrame.build,
    byte_taps_256,
    _byte_taps_constants,
    variant=tap_sums,
)
convolution_row("qu8_qs8_s32_dwconv2d__avx2", AVX2, is_depthwise, lambda r: TapPairs(conv_of(r).kernel), depthwise_256)
convolution_row("qu8_qs8_s32_gconv2d__avx2", AVX2, is_grouped, _words, tiles_256)

convolution_row("qu8_qs8_s32_conv2d__generic", GENERIC, is_dense, lambda r: Scalar(), small_tiles)
convolution_row("qu8_qs8_s32_dwconv2d__generic", GENERIC, is_depthwise, lambda r: Elementwise(), small_tiles)
convolution_row("qu8_qs8_s32_gconv2d__generic", GENERIC, is_grouped, lambda r: Scalar(), small_tiles)
