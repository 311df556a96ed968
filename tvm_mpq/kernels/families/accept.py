"""Which convolutions a family takes, whatever the machine: what `Family.accepts` is made of."""

from __future__ import annotations

from tvm_mpq.kernels.emit.activations import is_known
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import conv_of
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.schema import FLOAT_BITS, padded_channels


def finishable(request: Request) -> bool:
    """Whether the requantizer can end it: floats leave without a table, so their activation must be a clamp."""
    return request.out_bits <= 8 or is_clamp(conv_of(request).activation)


def is_float(request: Request) -> bool:
    """Whether floats leave it, behind an activation that float code has."""
    return request.out_bits == FLOAT_BITS and is_known(conv_of(request).activation)


def is_dense(request: Request) -> bool:
    """One group, with or without input dilation."""
    return conv_of(request).groups == 1 and finishable(request) and has_phases(request)


def is_grouped(request: Request) -> bool:
    """Several groups that are not single channels."""
    grouped = conv_of(request).groups > 1 and finishable(request)
    return grouped and not is_depthwise(request) and has_phases(request)


def has_phases(request: Request) -> bool:
    """Whether each phase of a dilated input has an output, and its taps are neighbours (no stride, no dilation)."""
    w = conv_of(request)
    if w.input_dilation == (1, 1):
        return True
    plain = w.stride == w.dilation == (1, 1)
    return plain and w.out_height >= w.input_dilation[0] and w.out_width >= w.input_dilation[1]


def is_depthwise(request: Request) -> bool:
    """One input and one output channel a group, stored in whole blocks of 16, without input dilation."""
    w = conv_of(request)
    plain = w.is_depthwise and w.out_channels == w.in_channels and w.input_dilation == (1, 1)
    return plain and padded_channels(w.in_channels) >= 16 and finishable(request)
