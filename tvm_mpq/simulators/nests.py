"""Convolutions and linear layers as the nest of loops that accelerators are described by."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.schema import Conv2dWorkload


@dataclass(frozen=True)
class Nest:
    """Loops of y[b, g, k, oy, ox] += w[g, k, c, fy, fx] * x[b, g, c, iy, ix], padding left out of x.

    Batch, groups, output and input channels of a group, output and kernel rows and columns; then rows and columns of
    the input, what is added around it (top, bottom; left, right), and steps. Of a transposed convolution x has its
    zeros.
    """

    batch: int
    groups: int
    out_channels: int
    in_channels: int
    out_rows: int
    out_columns: int
    kernel_rows: int
    kernel_columns: int
    in_rows: int
    in_columns: int
    row_padding: tuple[int, int]
    column_padding: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]


def nest_of(w: Conv2dWorkload) -> Nest:
    """Linear layers are 1x1 convolutions there too."""
    top, left, bottom, right = w.padding
    return Nest(
        w.batch,
        w.groups,
        w.out_channels // w.groups,
        w.in_channels // w.groups,
        w.out_height,
        w.out_width,
        *w.kernel,
        w.dilated_height,
        w.dilated_width,
        (top, bottom),
        (left, right),
        w.stride,
        w.dilation,
    )
