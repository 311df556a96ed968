"""The work that one run of a kernel does, counted as its tiles do it: remainders, padding and traffic included.

Channels count as they are stored: padded in integer tensors. A map that is no multiple of the tile costs whole tiles.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from tvm_mpq.schema import (
    FLOAT_BITS,
    ConcatWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    CopyWorkload,
    Pool2dWorkload,
    padded_channels,
)
from tvm_mpq.tuning.predictor.entry import Entry


@dataclass(frozen=True)
class Work:
    """Counts of one run. Vectors are of the kernel's own width.

    products: vector multiply-adds or look-ups; loads: vectors read for them; stores: vectors finished and written;
    tiles: times the inner loops start; staged_bytes: copied into a scratch first (borders, look-up tables);
    near_bytes: activations read and written once; l2_bytes: read again from the second-level cache; far_bytes: operands
    beyond that cache; weight_bytes, macs (padded), steps (of one reduction), rows and width of the output map: for
    the regressor.
    """

    products: float
    loads: float
    stores: float
    tiles: float
    staged_bytes: float
    near_bytes: float
    l2_bytes: float
    far_bytes: float
    weight_bytes: float
    in_bytes: float
    out_bytes: float
    macs: float
    steps: float
    rows: float
    width: float


TERMS = ("products", "loads", "stores", "tiles", "staged_bytes", "near_bytes", "l2_bytes", "far_bytes")
"""What time is made of; a call's own cost comes on top."""

_LUT_GROUP = 10
"""Input channels of one look-up table."""


@functools.lru_cache(maxsize=8192)
def count_work(entry: Entry) -> Work:
    """Work of an entry that is `predictable`."""
    if isinstance(entry.workload, Conv2dWorkload):
        return _conv(entry, entry.workload)
    return _weightless(entry)


def _tiled(extent: int, tile: int) -> int:
    return -(-extent // max(1, tile))


def _conv(entry: Entry, w: Conv2dWorkload) -> Work:
    knobs, machine, integer = entry.knobs, entry.machine, not entry.precision.is_float
    lut = "lut" in entry.key.family
    lanes = 16 if integer else int(knobs.get("lanes", machine.lanes))
    size = 1 if integer else 4
    images, height, width = w.batch, w.out_height, w.out_width
    down, across = w.input_dilation
    if down * across > 1:  # outputs that far apart meet the same taps: each phase is a map with weights of its own
        images, height, width = images * down * across, _tiled(height, down), _tiled(width, across)
    elif w.kernel == (1, 1) and w.stride == (1, 1) and not any(w.padding):  # kernels see one row of positions
        images, height, width = 1, 1, w.batch * height * width
    rows = min(int(knobs.get("rows", 1)), height)
    columns = min(int(knobs.get("columns", knobs.get("cols", 1))), width)
    all_blocks = _tiled(w.out_channels, lanes)
    blocks = min(int(knobs.get("blocks", 1)), all_blocks)

    stored = padded_channels(w.in_channels) if integer else w.in_channels
    depth = 1.0 if w.is_depthwise else float(stored)
    if w.groups > 1 and not w.is_depthwise:
        depth = min(stored, max(w.in_channels / w.groups, lanes * w.in_channels / w.out_channels if integer else 1))
    taps = _tiled(w.kernel[0], down) * _tiled(w.kernel[1], across)
    steps = taps * (-(-w.in_channels // _LUT_GROUP) if lut else depth / 4 if integer else depth)
    weight_size = 64 / (16 * _LUT_GROUP) if lut else 0.5 if "qc4s" in entry.key.family else size
    group_bytes = blocks * lanes * taps * depth * weight_size
    weight_bytes = down * across * all_blocks * lanes * taps * depth * weight_size

    spots = images * _tiled(height, rows) * _tiled(width, columns)
    groups = _tiled(all_blocks, blocks)
    tiles = spots * groups
    in_tile = blocks if w.is_depthwise else 1  # a depthwise position is read anew for each block of channels
    in_bytes = w.batch * w.in_height * w.in_width * stored * size
    out_size = 4 if entry.key.out_bits == FLOAT_BITS else 1
    out_cells = w.out_channels if out_size == 4 else padded_channels(w.out_channels)
    out_bytes = w.batch * w.out_height * w.out_width * out_cells * out_size
    staged = in_bytes if any(w.padding) or (integer and w.is_depthwise) else 0
    if lut:
        staged = w.batch * (w.in_height + w.padding[0] + w.padding[2]) * (w.in_width + w.padding[1] + w.padding[3])
        staged *= -(-w.in_channels // _LUT_GROUP) * 64

    level_1 = machine.l1d_bytes / 2
    again = knobs.get("order") == "positions" or groups == 1
    working = weight_bytes if again else group_bytes
    weights_read = weight_bytes if working <= level_1 else spots * weight_bytes
    inputs_read = in_bytes * (1 if again or w.is_depthwise or in_bytes <= level_1 else groups)
    everything = in_bytes + out_bytes + weight_bytes + (out_bytes if w.residual else 0)
    return Work(
        products=tiles * rows * columns * blocks * steps,
        loads=tiles * (rows * columns * in_tile + blocks) * steps,
        stores=tiles * rows * columns * blocks * (1.5 if w.residual else 1),
        tiles=tiles,
        staged_bytes=staged,
        near_bytes=in_bytes + out_bytes * (2 if w.residual else 1),
        l2_bytes=weights_read + inputs_read,
        far_bytes=max(0, everything - machine.l2_bytes),
        weight_bytes=weight_bytes,
        in_bytes=in_bytes,
        out_bytes=out_bytes,
        macs=w.batch * w.out_height * w.out_width * all_blocks * lanes * taps * depth,
        steps=steps,
        rows=images * height,
        width=width,
    )


def _weightless(entry: Entry) -> Work:
    """Operators without weights: vectors moved, and rows of channels at whose ends a vector may overlap."""
    w, machine = entry.workload, entry.machine
    size = 4 if entry.key.out_bits == FLOAT_BITS else 1
    integer = not entry.precision.is_float
    lanes = 16 if integer else machine.lanes
    taps, staged, channels = 1, 0.0, 0.0

    def cells(channels: int, bits: int) -> int:
        return channels if bits == FLOAT_BITS else padded_channels(channels)

    bits = FLOAT_BITS if entry.precision.is_float else 8
    if isinstance(w, Pool2dWorkload):
        taps = w.kernel[0] * w.kernel[1]
        rows, channels = w.batch * w.out_height * w.out_width, cells(w.channels, bits)
        read = w.batch * w.in_height * w.in_width * channels * size
    elif isinstance(w, ConvertWorkload):
        rows, channels = math.prod(w.shape[:-1]), max(cells(w.shape[-1], w.from_bits), cells(w.shape[-1], w.to_bits))
        read = rows * cells(w.shape[-1], w.from_bits) * (4 if w.from_bits == FLOAT_BITS else 1)
        staged = read if w.channels_first else 0.0
        size = 4 if w.to_bits == FLOAT_BITS else 1
    elif isinstance(w, ConcatWorkload):
        rows, channels = w.rows * len(w.channels), cells(sum(w.channels), bits) / len(w.channels)
        read = w.rows * sum(cells(c, bits) for c in w.channels) * size
    elif isinstance(w, CopyWorkload):
        rows, channels = math.prod(w.out_shape[:-1]), cells(w.out_shape[-1], bits)
        read = math.prod(w.count[:-1]) * channels * size
    else:
        shape = w.shape  # type: ignore[attr-defined]
        rows, channels = math.prod(shape[:-1]), cells(shape[-1], bits)
        inputs = 1 if w.kind == "activation" or getattr(w, "broadcast", False) else 2
        read = rows * channels * size * inputs
    vectors = rows * math.ceil(channels / lanes)
    out_bytes = rows * channels * size
    return Work(
        products=vectors * taps,
        loads=vectors * taps,
        stores=vectors,
        tiles=rows,
        staged_bytes=staged,
        near_bytes=read + out_bytes,
        l2_bytes=max(0.0, read + out_bytes - machine.l1d_bytes),
        far_bytes=max(0.0, read + out_bytes - machine.l2_bytes),
        weight_bytes=0,
        in_bytes=read,
        out_bytes=out_bytes,
        macs=vectors * lanes * taps,
        steps=taps,
        rows=rows,
        width=channels,
    )
