"""Rows of the kernel table for 3x3 convolutions by Winograd's transform in whole numbers."""

from __future__ import annotations

import numpy as np

from tvm_mpq.kernels.families.accept import is_dense
from tvm_mpq.kernels.families.row import framed_row
from tvm_mpq.kernels.families.terms import scaled_terms
from tvm_mpq.kernels.features import AVX2, AVX_VNNI
from tvm_mpq.kernels.frames.winograd import WinogradFrame
from tvm_mpq.kernels.frames.winograd_writer import build_winograd
from tvm_mpq.kernels.knobs.winograd import winograd_knobs
from tvm_mpq.kernels.machines.avx2 import Words
from tvm_mpq.kernels.packing.constants import convolution_constants
from tvm_mpq.kernels.packing.winograd import TRANSFORMS, pack_winograd
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import conv_of
from tvm_mpq.numerics.affine import unsigned_range, weight_range
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import padded_channels

_LEAST_CHANNELS = 12
_TABLED_BITS = 4  # of activations
_TABLED = 128  # channels from which tables win at two bits


def _transformed(request: Request) -> bool:
    """3x3 at stride 1, over maps of at least one tile, with channels enough to pay for the transforms.

    Sums from tables are faster at one bit, and at two bits where transformed weights come from far away. AVX-VNNI's
    products of bytes are as fast before any transform, by static analysis (`benchmarks/x86_mca.py`).
    """
    w, p = conv_of(request), request.precision
    if request.features >= AVX_VNNI:
        return False
    if p.activation_bits <= _TABLED_BITS and (p.weight_bits == 1 or (p.weight_bits == 2 and w.in_channels > _TABLED)):
        return False
    plain = w.kernel == (3, 3) and w.stride == w.dilation == w.input_dilation == (1, 1)
    large = min(w.out_height, w.out_width) >= min(TRANSFORMS)
    return plain and large and min(w.in_channels, w.out_channels) >= _LEAST_CHANNELS and is_dense(request)


def _terms(request: Request) -> int:
    """Four times an output fits int32: what is left of scale^2 before the last division."""
    p = request.precision
    greatest = unsigned_range(p.activation_bits)[1] * weight_range(p.weight_bits)[1]
    return scaled_terms(request, max(1 << t.shift for t in TRANSFORMS.values()) * greatest)


def _constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    transform, cells = TRANSFORMS[knobs["outputs"]], padded_channels(conv_of(request).in_channels)
    return convolution_constants(request, operands, lambda weight: pack_winograd(transform, weight, cells))


def _frame(request: Request, knobs: Knobs) -> WinogradFrame:
    w = conv_of(request)
    return WinogradFrame(request, knobs, Words(w.batch * w.out_height * w.out_width))


framed_row(
    "qu8_qs8_s32_winograd__avx2",
    AVX2,
    _transformed,
    _frame,
    build_winograd,
    winograd_knobs,
    _constants,
    max_terms=_terms,
)
