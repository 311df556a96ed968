"""Rows of the kernel table for 64-bit ARM.

`fp-armv8` tells 64-bit ARM from 32-bit, whose NEON lacks these instructions under LLVM's names used here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_mpq.kernels.conv.dense import build_dense
from tvm_mpq.kernels.conv.dot import Dot
from tvm_mpq.kernels.conv_neon.centre import centred_ranges
from tvm_mpq.kernels.conv_neon.depthwise import ByteLanes, build_depthwise
from tvm_mpq.kernels.conv_neon.knobs import depthwise_tiles, pairwise_tiles, sdot_tiles
from tvm_mpq.kernels.conv_neon.pairwise import PairwiseDot, TapRow, build_pairwise, deferred_depth, exact_depth
from tvm_mpq.kernels.conv_neon.sdot import SignedDot
from tvm_mpq.kernels.families.accept import is_dense, is_depthwise, is_grouped, workload_of
from tvm_mpq.kernels.families.terms import int32_terms
from tvm_mpq.kernels.packing.dense import integer_constants, packed_weight
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.kernels.tir import Script
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload, padded_channels

_NEON = frozenset({"fp-armv8", "neon"})
_DOTPROD = _NEON | {"dotprod"}


def _has_vector(request: Request) -> bool:
    """Rows of taps must hold a vector of 8 bytes."""
    return TapRow.of(workload_of(request)).length >= 8


def _deferred(request: Request) -> bool:
    """More than the two products that 8 bit operands allow, and rows of taps that have them."""
    p = request.precision
    exact = exact_depth(p.weight_bits, p.activation_bits)
    return is_dense(request) and exact >= 4 and TapRow.of(workload_of(request)).length >= 32


def _signed_dot(request: Request) -> Dot:
    return SignedDot(padded_channels(workload_of(request).in_channels), request.precision.activation_bits)


def _pairwise_dot(request: Request) -> Dot:
    return PairwiseDot(workload_of(request), request.precision.activation_bits)


def _lanes(request: Request) -> Dot:
    return ByteLanes(request.precision.activation_bits)


def _constants(request: Request, dot: Dot, operands: Operands) -> list[np.ndarray]:
    numbers = integer_constants(request, operands)
    return centred_ranges(request, numbers, packed_weight(request, dot, numbers.weight))


def _row(
    name: str,
    features: frozenset[str],
    rank: int,
    accepts: Callable[[Request], bool],
    dot_for: Callable[[Request], Dot],
    knob_space: Callable[[Request], list[Knobs]],
    build: Callable[[Request, Knobs], Script],
    ranges: str = "x 0..255, w -127..127",
    variant: Callable[[Request], object] = lambda request: None,
) -> None:
    register(
        Family(
            name=name,
            workload_type=Conv2dWorkload,
            isa_features=features,
            weight_bits=frozenset(range(1, 9)),
            activation_bits=frozenset(range(1, 9)),
            operand_ranges=ranges,
            accepts=accepts,
            knob_space=knob_space,
            build=build,
            constants=lambda request, knobs, operands: _constants(request, dot_for(request), operands),
            rank=rank,
            variant=variant,
            max_terms=int32_terms,
        )
    )


def _sdot_row(name: str, accepts: Callable[[Request], bool]) -> None:
    _row(
        name,
        _DOTPROD,
        40,
        accepts,
        _signed_dot,
        lambda request: sdot_tiles(request, _signed_dot(request)),
        lambda request, knobs: build_dense(request, knobs, _signed_dot(request)),
    )


def _pairs_row(name: str, accepts: Callable[[Request], bool]) -> None:
    _row(
        name,
        _NEON,
        20,
        accepts,
        _pairwise_dot,
        pairwise_tiles,
        lambda request, knobs: build_pairwise(request, knobs, deferred=False),
    )


_sdot_row("qu8_qs8_s32_conv2d__dotprod", is_dense)
_sdot_row("qu8_qs8_s32_gconv2d__dotprod", is_grouped)
_row(
    "qu8_qs8_s16_conv2d__neon",
    _NEON,
    30,
    _deferred,
    _pairwise_dot,
    pairwise_tiles,
    lambda request, knobs: build_pairwise(request, knobs, deferred=True),
    "4 * 2^(a - 1) * max|w| <= 32767: w7a8, w8a7 and fewer bits",
    lambda request: deferred_depth(request.precision),
)
_pairs_row("qu8_qs8_s32_conv2d__neon", lambda request: is_dense(request) and _has_vector(request))
_pairs_row("qu8_qs8_s32_gconv2d__neon", lambda request: is_grouped(request) and _has_vector(request))
_row("qu8_qs8_s32_dwconv2d__neon", _NEON, 50, is_depthwise, _lanes, depthwise_tiles, build_depthwise)
