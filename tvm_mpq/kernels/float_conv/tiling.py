"""Geometry of a float convolution and the choice of its register tile.

A register tile is `rows x cols` output positions times `blocks` vectors of `lanes` output channels. Every step of the
reduction loads `blocks` weight vectors, broadcasts `rows * cols` inputs and issues `rows * cols * blocks` FMAs.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.schema import Conv2dWorkload

Knobs = dict[str, int]

_INPUT_BLOCK_BYTES = 192 * 1024
"""Input that one task walks over again for each group of output channels: it should stay in a second-level cache."""
_FIRST_LEVEL_BYTES = 24 * 1024


@dataclass(frozen=True)
class Geometry:
    """A convolution with everything collapsed that can be: a 1x1 stride 1 layer becomes one row of positions.

    in_group / out_group: channels of one group. scratch_width: columns of an input row with its padding, 0 when there
    is no padding and the input is read in place.
    """

    batch: int
    in_height: int
    in_width: int
    in_channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, w: Conv2dWorkload) -> Geometry:
        """Collapse `w`. Positions of a 1x1 stride 1 convolution are independent, so batch and rows become columns."""
        shape = (w.batch, w.in_height, w.in_width, w.in_channels, w.out_height, w.out_width, w.out_channels)
        if w.kernel == (1, 1) and w.stride == (1, 1) and not any(w.padding):
            positions = w.batch * w.in_height * w.in_width
            shape = (1, 1, positions, w.in_channels, 1, positions, w.out_channels)
        return cls(*shape, w.kernel, w.stride, w.padding, w.dilation, w.groups)

    @property
    def in_group(self) -> int:
        return self.in_channels // self.groups

    @property
    def out_group(self) -> int:
        return self.out_channels // self.groups

    @property
    def merged(self) -> bool:
        """Whether the inputs under a kernel row are neighbours in memory."""
        return self.groups == 1 and (self.dilation[1] == 1 or self.kernel[1] == 1)

    @property
    def segment(self) -> int:
        """Inputs that lie side by side under the kernel: those of a kernel row, or of one position."""
        return self.in_group * (self.kernel[1] if self.merged else 1)

    @property
    def segments(self) -> int:
        return self.kernel[0] * (1 if self.merged else self.kernel[1])

    @property
    def padded(self) -> bool:
        return any(self.padding)

    @property
    def row_width(self) -> int:
        """Columns of the row that the inner loops read: of the bordered copy when there is padding."""
        if not self.padded:
            return self.in_width
        return (self.out_width - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1

    def rows_for(self, out_rows: int) -> int:
        """Input rows (with padding) that `out_rows` neighbouring output rows read."""
        return (out_rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1


def native_lanes(features: frozenset[str]) -> int:
    """Widest float32 vector of the machine."""
    if "avx512f" in features:
        return 16
    return 8 if "avx2" in features or "avx" in features else 4


def vector_registers(features: frozenset[str]) -> int:
    """32 with AVX-512 and on ARM and RISC-V, 16 on older x86."""
    x86 = "sse2" in features
    return 16 if x86 and "avx512f" not in features else 32


def fitting_lanes(channels: int, widest: int) -> int:
    """Largest power of two that is at most `channels` and `widest`: tails then overlap instead of being masked.

    >>> fitting_lanes(10, 16), fitting_lanes(24, 16), fitting_lanes(1, 16)
    (8, 16, 1)
    """
    lanes = widest
    while lanes > channels:
        lanes //= 2
    return max(lanes, 1)


def conv_tiles(geo: Geometry, features: frozenset[str], only_lanes: int | None = None) -> list[Knobs]:
    """Tiles ordered by estimated time; the first is the default, the list holds about ten."""
    widest = fitting_lanes(geo.out_group, native_lanes(features))
    registers = vector_registers(features)
    ranked: list[tuple[float, int, Knobs]] = []
    for lanes in {only_lanes} if only_lanes else {widest, max(widest // 2, 1)}:
        vectors = -(-geo.out_group // lanes)
        for rows in range(1, min(4, geo.out_height) + 1):
            for cols in range(1, min(28, geo.out_width) + 1):
                for blocks in range(1, min(vectors, 16) + 1):
                    if not _fits(rows * cols, blocks, registers):
                        break
                    cost = _cost(geo, lanes, rows, cols, blocks, vectors, native_lanes(features))
                    knobs = {"lanes": lanes, "rows": rows, "cols": cols, "blocks": blocks}
                    ranked.append((cost, len(ranked), knobs))
    ranked.sort()
    return [knobs for _, _, knobs in ranked[:10]]


def _fits(positions: int, blocks: int, registers: int) -> bool:
    """Whether sums, weights and a broadcast input fit the registers, with the slack LLVM was seen to need.

    With 16 registers (AVX2) an FMA cannot broadcast its operand by itself: long columns would be bound by loads.
    """
    sums = positions * blocks
    slack = 4 if registers == 32 and blocks > 2 else 0
    return sums + blocks + 1 + slack <= registers and (registers == 32 or positions <= 6)


def _cost(geo: Geometry, lanes: int, rows: int, cols: int, blocks: int, vectors: int, widest: int) -> float:
    """Estimated time in FMA issue slots per reduction step, summed over all tiles of one image.

    A step costs its FMAs or its loads, whichever is more; fewer than 8 independent chains wait for the FMA latency.
    Loads that hide behind FMAs still cost a little, weights more when a group of them does not fit the first-level
    cache and is streamed again for every tile. A half-width vector costs 0.6 of a slot: half on cores that split wide
    vectors, one on others.
    """
    positions = rows * cols
    tiles = -(-geo.out_height // rows) * -(-geo.out_width // cols)
    width = 1.0 if lanes == widest else 0.6
    group_bytes = geo.kernel[0] * geo.kernel[1] * geo.in_group * blocks * lanes * 4
    weight_cost = 0.35 if group_bytes > _FIRST_LEVEL_BYTES else 0.15

    def step(b: int) -> float:
        if b == 0:
            return 0.0
        busy = max(positions * b * width, (positions + b * width) * 0.9, 8.0 * width)
        return busy + 0.1 * positions + weight_cost * b * width

    return tiles * (vectors // blocks * step(blocks) + step(vectors % blocks))


def row_block(geo: Geometry, rows: int, tasks: int) -> int:
    """Output rows of one task: few enough for the cache and for `tasks` tasks, a multiple of `rows` where possible."""
    limit = geo.out_height if tasks <= 1 else max(rows, -(-geo.out_height // tasks))
    row_bytes = geo.row_width * geo.in_channels * 4
    while limit > rows and geo.rows_for(limit) * row_bytes > _INPUT_BLOCK_BYTES:
        limit -= 1
    count = -(-geo.out_height // limit)
    even = -(-geo.out_height // count)
    return min(geo.out_height, -(-even // rows) * rows)


def column_block(geo: Geometry, cols: int, tasks: int) -> int:
    """The same for a convolution that is one row of positions, read in place."""
    limit = max(cols, _INPUT_BLOCK_BYTES // (geo.in_channels * 4 * geo.stride[1]))
    if tasks > 1:
        limit = min(limit, max(cols, -(-geo.out_width // tasks)))
    count = -(-geo.out_width // limit)
    even = -(-geo.out_width // count)
    return min(geo.out_width, -(-even // cols) * cols)
