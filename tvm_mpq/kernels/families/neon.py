"""Rows of the kernel table for 64-bit ARM."""

from __future__ import annotations

from collections.abc import Callable

from tvm_mpq.kernels.families.accept import is_dense, is_depthwise, is_grouped
from tvm_mpq.kernels.families.row import convolution_row
from tvm_mpq.kernels.features import DOTPROD, I8MM, NEON
from tvm_mpq.kernels.knobs.neon import depthwise_tiles, matrix_tiles, pairwise_tiles, sdot_tiles
from tvm_mpq.kernels.machines.dotprod import SignedDot
from tvm_mpq.kernels.machines.i8mm import MatrixProducts
from tvm_mpq.kernels.machines.neon import ByteLanes, Pairwise, TapRow, deferred_depth, exact_depth
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, conv_of
from tvm_mpq.schema import padded_channels


def _has_vector(request: Request) -> bool:
    """Rows of taps must hold a vector of 8 bytes."""
    return TapRow.of(conv_of(request)).length >= 8


def _deferred(request: Request) -> bool:
    """More than the two products that 8 bit operands allow, and rows of taps that have them."""
    p = request.precision
    exact = exact_depth(p.weight_bits, p.activation_bits)
    return is_dense(request) and exact >= 4 and TapRow.of(conv_of(request)).length >= 32


def _in_pairs(request: Request) -> bool:
    """Positions enough for pairs, and vectors of channels."""
    w = conv_of(request)
    return is_dense(request) and w.out_height * w.out_width > 1 and padded_channels(w.in_channels) % BLOCK == 0


def _signed_dot(request: Request) -> SignedDot:
    return SignedDot(padded_channels(conv_of(request).in_channels), request.precision.activation_bits)


def _pairwise(request: Request, depth: int = 2) -> Pairwise:
    return Pairwise(conv_of(request), request.precision.activation_bits, depth)


def _pairs_row(name: str, accepts: Callable[[Request], bool]) -> None:
    convolution_row(name, NEON, lambda request: accepts(request) and _has_vector(request), _pairwise, pairwise_tiles)


convolution_row(
    "qu8_qs8_s32_conv2d__i8mm", I8MM, _in_pairs, lambda request: MatrixProducts(conv_of(request)), matrix_tiles
)
convolution_row("qu8_qs8_s32_conv2d__dotprod", DOTPROD, is_dense, _signed_dot, sdot_tiles)
convolution_row("qu8_qs8_s32_gconv2d__dotprod", DOTPROD, is_grouped, _signed_dot, sdot_tiles)
convolution_row(
    "qu8_qs8_s16_conv2d__neon",
    NEON,
    _deferred,
    lambda request: _pairwise(request, deferred_depth(request.precision)),
    pairwise_tiles,
    "4 * 2^(a - 1) * max|w| <= 32767: w7a8, w8a7 and fewer bits",
    variant=lambda request: deferred_depth(request.precision),
)
_pairs_row("qu8_qs8_s32_conv2d__neon", is_dense)
_pairs_row("qu8_qs8_s32_gconv2d__neon", is_grouped)
convolution_row(
    "qu8_qs8_s32_dwconv2d__neon",
    NEON,
    is_depthwise,
    lambda request: ByteLanes(request.precision),
    depthwise_tiles,
)
