"""Rows of the kernel table for 64-bit ARM.

`fp-armv8` tells 64-bit ARM from 32-bit, whose NEON lacks these instructions under LLVM's names used here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm_mpq.kernels.families.accept import is_dense, is_depthwise, is_grouped, workload_of
from tvm_mpq.kernels.families.row import convolution_row
from tvm_mpq.kernels.knobs.neon import depthwise_tiles, pairwise_tiles, sdot_tiles
from tvm_mpq.kernels.machines.dotprod import SignedDot
from tvm_mpq.kernels.machines.neon import ByteLanes, Pairwise, TapRow, deferred_depth, exact_depth
from tvm_mpq.kernels.packing.centred import centred_ranges
from tvm_mpq.kernels.registry import Request
from tvm_mpq.schema import padded_channels

_NEON = frozenset({"fp-armv8", "neon"})
_DOTPROD = _NEON | {"dotprod"}
_row = partial(convolution_row, finish=centred_ranges)


def _has_vector(request: Request) -> bool:
    """Rows of taps must hold a vector of 8 bytes."""
    return TapRow.of(workload_of(request)).length >= 8


def _deferred(request: Request) -> bool:
    """More than the two products that 8 bit operands allow, and rows of taps that have them."""
    p = request.precision
    exact = exact_depth(p.weight_bits, p.activation_bits)
    return is_dense(request) and exact >= 4 and TapRow.of(workload_of(request)).length >= 32


def _signed_dot(request: Request) -> SignedDot:
    return SignedDot(padded_channels(workload_of(request).in_channels), request.precision.activation_bits)


def _pairwise(request: Request, depth: int = 2) -> Pairwise:
    return Pairwise(workload_of(request), request.precision.activation_bits, depth)


def _pairs_row(name: str, accepts: Callable[[Request], bool]) -> None:
    _row(name, _NEON, lambda request: accepts(request) and _has_vector(request), _pairwise, pairwise_tiles)


_row("qu8_qs8_s32_conv2d__dotprod", _DOTPROD, is_dense, _signed_dot, sdot_tiles)
_row("qu8_qs8_s32_gconv2d__dotprod", _DOTPROD, is_grouped, _signed_dot, sdot_tiles)
_row(
    "qu8_qs8_s16_conv2d__neon",
    _NEON,
    _deferred,
    lambda request: _pairwise(request, deferred_depth(request.precision)),
    pairwise_tiles,
    "4 * 2^(a - 1) * max|w| <= 32767: w7a8, w8a7 and fewer bits",
    variant=lambda request: deferred_depth(request.precision),
)
_pairs_row("qu8_qs8_s32_conv2d__neon", is_dense)
_pairs_row("qu8_qs8_s32_gconv2d__neon", is_grouped)
_row(
    "qu8_qs8_s32_dwconv2d__neon",
    _NEON,
    is_depthwise,
    lambda request: ByteLanes(request.precision),
    depthwise_tiles,
)
