"""What a dense convolution's loops look like: rows collapsed where possible, tiles, and the split over threads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.emit.value import Index, Value, minimum
from tvm_mpq.kernels.registry import Request
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload, padded_channels

BLOCK = 16
"""Output channels of one block: one u8 store of 16 bytes, one 512 bit int32 accumulator."""


def blocks(channels: int) -> int:
    """Blocks of 16 channels that cover `channels`."""
    return tiles(channels, BLOCK)


def conv_of(request: Request) -> Conv2dWorkload:
    """The request's workload, known to be a convolution."""
    assert isinstance(request.workload, Conv2dWorkload)
    return request.workload


def stored_channels(request: Request) -> int:
    """Elements of one output position."""
    channels = conv_of(request).out_channels
    return channels if request.out_bits == FLOAT_BITS else padded_channels(channels)


@dataclass(frozen=True)
class PhaseAxis:
    """One axis of a convolution over an input that is dilated by `factor` (a transposed convolution of that stride).

    Outputs that are `factor` apart meet the same taps: those of phase a are an ordinary convolution of stride 1 over
    the input as it is, with every factor-th tap. All phases are given as many taps as the longest has: where one has
    fewer, taps of zero follow.
    """

    factor: int
    kernel: int
    padding: int  # before the dilated input
    extent: int  # outputs of all phases

    @property
    def taps(self) -> int:
        """Taps of one phase."""
        return tiles(self.kernel, self.factor)

    def first_tap(self, phase: int) -> int:
        """The kernel position that its first tap has."""
        return (self.padding - phase) % self.factor

    def start(self, phase: Index) -> Index:
        """The input position that the first tap of its first output reads; before the input where negative."""
        return (phase - self.padding + (self.factor - 1)) // self.factor

    def outputs(self, phase: Index) -> Index:
        """How many outputs it has."""
        return (self.extent - phase + (self.factor - 1)) // self.factor

    @property
    def most(self) -> int:
        """Outputs of the longest phase."""
        return tiles(self.extent, self.factor)

    @property
    def least(self) -> int:
        """Outputs of the shortest phase."""
        return self.extent // self.factor

    @property
    def span(self) -> int:
        """By how much the starts of the phases differ."""
        return (2 * (self.factor - 1) - self.padding) // self.factor - (self.factor - 1 - self.padding) // self.factor

    def border(self, size: int) -> tuple[int, int]:
        """Positions before and behind an input of `size` that some phase reads."""
        starts = [(phase - self.padding + self.factor - 1) // self.factor for phase in range(self.factor)]
        ends = [start + tiles(self.extent - a, self.factor) - 1 + self.taps for a, start in enumerate(starts)]
        return max(0, -starts[0]), max(0, max(ends) - size)


@dataclass(frozen=True)
class Geometry:
    """Loop extents of a convolution, after collapsing.

    A 1x1 convolution of stride 1 without padding is one row of batch * height * width positions. Where the input is
    dilated, extents, kernel and padding are those of one phase, the longest, and `phases` tells the rest.
    """

    batch: int
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    in_cells: int  # elements of one input position: bytes have padded channels, floats have not
    out_cells: int  # elements of one output position
    phases: tuple[PhaseAxis, PhaseAxis] | None = None  # rows and columns of a dilated input

    @classmethod
    def of(cls, w: Conv2dWorkload, out_bits: int) -> Geometry:
        """Of a convolution on bytes."""
        out_cells = w.out_channels if out_bits == FLOAT_BITS else padded_channels(w.out_channels)
        return cls._collapsed(w, padded_channels(w.in_channels), out_cells)

    @classmethod
    def of_floats(cls, w: Conv2dWorkload) -> Geometry:
        """Of a convolution on floats.

        Tiles of a phase with fewer outputs than the longest may begin before their block does, which is why bordered
        rows then begin earlier too.
        """
        g = cls._collapsed(w, w.in_channels, w.out_channels)
        if g.phases is None or not g.bordered:
            return g
        top, left, bottom, right = g.padding
        return dataclasses.replace(g, padding=(top + g.out_height - g.least_height, left, bottom, right))

    @classmethod
    def _collapsed(cls, w: Conv2dWorkload, in_cells: int, out_cells: int) -> Geometry:
        if w.input_dilation != (1, 1):
            return cls._longest_phase(w, in_cells, out_cells)
        batch, height, width, out_height, out_width = w.batch, w.in_height, w.in_width, w.out_height, w.out_width
        if w.kernel == (1, 1) and w.stride == (1, 1) and not any(w.padding):
            batch, height, width = 1, 1, w.batch * w.in_height * w.in_width
            out_height, out_width = 1, width
        shape = (batch, height, width, out_height, out_width)
        return cls(*shape, w.kernel, w.stride, w.dilation, w.padding, in_cells, out_cells)

    def reach(self, axis: int, count: int) -> int:
        """Input rows (axis 0) or columns (axis 1), border included, that `count` neighbouring outputs read."""
        return (count - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1

    @classmethod
    def _longest_phase(cls, w: Conv2dWorkload, in_cells: int, out_cells: int) -> Geometry:
        rows = PhaseAxis(w.input_dilation[0], w.kernel[0], w.padding[0], w.out_height)
        columns = PhaseAxis(w.input_dilation[1], w.kernel[1], w.padding[1], w.out_width)
        (top, bottom), (left, right) = rows.border(w.in_height), columns.border(w.in_width)
        extents = (w.batch, w.in_height, w.in_width, rows.most, columns.most)
        taps, padding = (rows.taps, columns.taps), (top, left, bottom, right)
        return cls(*extents, taps, (1, 1), (1, 1), padding, in_cells, out_cells, (rows, columns))

    @property
    def phase_count(self) -> int:
        """1 without input dilation."""
        return 1 if self.phases is None else self.phases[0].factor * self.phases[1].factor

    @property
    def least_height(self) -> int:
        """Output rows of the shortest phase."""
        return self.out_height if self.phases is None else self.phases[0].least

    @property
    def least_width(self) -> int:
        """Output columns of the shortest phase."""
        return self.out_width if self.phases is None else self.phases[1].least

    @property
    def extents(self) -> tuple[int, int]:
        """Output rows and columns of all phases."""
        if self.phases is None:
            return self.out_height, self.out_width
        return self.phases[0].extent, self.phases[1].extent

    @property
    def bordered(self) -> bool:
        """Whether input rows are copied into a scratch with a border of zeros or zero points."""
        return any(self.padding)

    @property
    def row_width(self) -> int:
        """Positions of one input row as the inner loops see it."""
        return self.in_width + self.padding[1] + self.padding[3]

    @property
    def rows(self) -> int:
        """Input rows with their border."""
        return self.in_height + self.padding[0] + self.padding[2]


@dataclass(frozen=True)
class ChannelWindow:
    """The input channels that one block of 16 output channels needs; all of them without groups."""

    groups: int
    in_per_group: int
    out_per_group: int
    cells: int  # length of the window, the same for every block
    limit: int  # last possible begin of a window

    @classmethod
    def of(cls, w: Conv2dWorkload, channels: int) -> ChannelWindow:
        """For a `Dot` of `channels` input channels a step."""
        stored = padded_channels(w.in_channels)
        ins, outs = w.in_channels // w.groups, w.out_channels // w.groups
        if w.groups == 1:
            # With one tap, padded channels are left out. With more they stay, so that a row of taps is one long loop.
            used = tiles(ins, channels) * channels if w.kernel[1] == 1 else stored
            return cls(1, ins, outs, min(used, stored), 0)
        longest = 0
        for first in range(0, w.out_channels, BLOCK):
            last = min(first + BLOCK, w.out_channels) - 1
            longest = max(longest, (last // outs - first // outs + 1) * ins)
        cells = min(tiles(longest, channels) * channels, stored)
        return cls(w.groups, ins, outs, cells, stored - cells)

    def start(self, block: int) -> int:
        """The first input channel of a block's window."""
        return min(block * BLOCK // self.out_per_group * self.in_per_group, self.limit)

    def first_cell(self, block: Value) -> Index:
        """`start` of a block that only the generated code knows."""
        if self.limit == 0:
            return 0
        return minimum(block * BLOCK // self.out_per_group * self.in_per_group, self.limit)


@dataclass(frozen=True)
class Segments:
    """The inputs under a kernel as runs of neighbours, where channels are not padded.

    merged: whether a run is a whole kernel row, whose positions lie side by side (never with groups); else it is the
    channels that one position has of a group. in_group, out_group: channels of one group; count, length: of the runs.
    """

    merged: bool
    in_group: int
    out_group: int
    count: int
    length: int

    @classmethod
    def of(cls, w: Conv2dWorkload) -> Segments:
        """Of a convolution on floats; of one phase where the input is dilated."""
        in_group, (kh, kw) = w.in_channels // w.groups, Geometry.of_floats(w).kernel
        merged = w.groups == 1 and (w.dilation[1] == 1 or kw == 1)
        count, length = (kh, in_group * kw) if merged else (kh * kw, in_group)
        return cls(merged, in_group, w.out_channels // w.groups, count, length)


@dataclass(frozen=True)
class ChannelTiles:
    """`count` tiles of `blocks` blocks of 16 channels from block `first`.

    half: the last block is half a block; overlaps: the last tile is moved back and computes some channels twice, so
    that all tiles are equal and any number of threads can share them.
    """

    first: int
    count: int
    blocks: int
    half: bool
    overlaps: bool = False


def tile_channels(all_blocks: int, tile: int, half: bool) -> list[ChannelTiles]:
    """Equal tiles and a narrower one for the rest; half a block alone joins the tile before it."""
    rest = all_blocks % tile
    full = all_blocks // tile
    if half and rest == 1 and full:
        rest, full = tile + 1, full - 1
    elif half and rest == 0:
        rest, full = tile, full - 1
    parts = [ChannelTiles(0, full, tile, False)] if full else []
    if rest:
        parts.append(ChannelTiles(full * tile, 1, rest, half))
    return parts


def has_half(request: Request, halves: bool) -> bool:
    """Whether the last block is computed as half a block: at most 8 of its channels exist, and outputs are bytes.

    halves: whether the machine can (`Dot.halves`).
    """
    w = conv_of(request)
    few = 0 < w.out_channels % BLOCK <= BLOCK // 2 and w.out_channels > 4
    bytes_out = request.out_bits != FLOAT_BITS and "avx512bw" in request.features
    return halves and few and w.groups == 1 and bytes_out and "avx512vl" in request.features


PARALLEL_MACS = 1_500_000
"""Work below which a kernel stays on one thread: a parallel region was measured to cost 3 to 4 microseconds, half of
what so many dense products take on one core of 200 GMAC/s."""


def useful_threads(w: Conv2dWorkload, threads: int) -> int:
    """How many of `threads` the kernel uses; a depthwise product takes about three times as long as a dense one."""
    return threads if w.macs * (3 if w.is_depthwise else 1) >= PARALLEL_MACS else 1
