"""The work that one run of a kernel does, counted as its tiles do it: remainders, padding and packing included.

Every row of the table counts its own. Nothing here depends on a machine's caches: how often an operand is passed over
is told, and what of that a cache saves is for those who know the machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_mpq.kernels.emit.code import Parameter
from tvm_mpq.kernels.parameters import Parameters


@dataclass(frozen=True)
class Passes:
    """An operand that the loops go over again and again.

    bytes: of the operand; times: how often all of it is read; held_bytes: what is read between two uses of the same
    byte. A cache of at least `held_bytes` is filled once.
    """

    bytes: float
    times: float
    held_bytes: float


@dataclass(frozen=True)
class Work:
    """Counts of one run. Vectors are of the kernel's own width.

    products: vector multiply-adds or look-ups; loads: vectors read for them; stores: vectors finished and written;
    tiles: times the inner loops start; staged_bytes: written into a scratch first (borders, look-up tables, unpacked
    weights); in_bytes, residual_bytes, out_bytes: activations; weight_bytes: as they are packed; macs: multiply-adds,
    those with padded channels included; steps: of one reduction; rows, width: of the output map; passes: operands that
    are read more than once, empty where everything is read once.
    """

    products: float
    loads: float
    stores: float
    tiles: float
    staged_bytes: float
    in_bytes: float
    residual_bytes: float
    out_bytes: float
    weight_bytes: float
    macs: float
    steps: float
    rows: float
    width: float
    passes: tuple[Passes, ...] = ()

    @property
    def moved_bytes(self) -> float:
        """All operands, each once."""
        return self.in_bytes + self.residual_bytes + self.out_bytes + self.weight_bytes


def array_bytes(arrays: Iterable[Parameter]) -> int:
    """Size of all of them."""
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)


@dataclass(frozen=True)
class Tiling:
    """The loops around a register tile of `positions` outputs x some vectors of output channels.

    spots: tiles of positions, of all images and phases; positions: of one, their mean where they differ; parts: how
    many tiles of channels have how many vectors; steps: vectors multiplied or looked up one after the other for each
    output vector; by_positions: whether the tiles of channels change innermost, so that all weights pass for each tile
    of positions; phases: kinds of positions that have weights of their own.
    """

    spots: float
    positions: float
    parts: Sequence[tuple[int, int]]
    steps: float
    by_positions: bool
    phases: int = 1

    @property
    def groups(self) -> int:
        """Tiles of channels."""
        return sum(count for count, _ in self.parts)

    @property
    def vectors(self) -> int:
        """Vectors of output channels in all of them."""
        return sum(count * vectors for count, vectors in self.parts)

    @property
    def finished(self) -> float:
        """Vectors of outputs."""
        return self.spots * self.positions * self.vectors

    def weight_passes(self, weight_bytes: float) -> Passes:
        """Weights pass once a tile of positions; only those of one tile of channels where that stays the same."""
        widest = max(vectors for _, vectors in self.parts)
        share = 1.0 if self.by_positions else widest / self.vectors
        return Passes(weight_bytes, self.spots / self.phases, weight_bytes * share / self.phases)

    def input_passes(self, read_bytes: float, share: float = 1.0) -> Passes:
        """Inputs pass once a tile of channels, unless that changes innermost. share: of them that one tile reads."""
        times = 1.0 if self.by_positions else max(1.0, self.groups * share)
        return Passes(read_bytes, times, read_bytes)


def convolution_work(
    parameters: Parameters,
    tiling: Tiling,
    passes: tuple[Passes, ...],
    *,
    macs: float,
    rows: float,
    width: float,
    staged_bytes: float = 0.0,
    weight_loads: float | None = None,
) -> Work:
    """The work of a kernel of `parameters` (x, a residual perhaps; weight, ...) whose loops are `tiling`.

    weight_loads: vectors of weights that are read for one vector of output channels of a tile, where these are not one
    a step.
    """
    (x, *residual), (weight, *_) = parameters.activations, parameters.constants
    of_weights = tiling.steps if weight_loads is None else weight_loads
    return Work(
        products=tiling.finished * tiling.steps,
        loads=tiling.spots * (tiling.groups * tiling.positions * tiling.steps + tiling.vectors * of_weights),
        stores=tiling.finished * (1.5 if residual else 1),
        tiles=tiling.spots * tiling.groups,
        staged_bytes=staged_bytes,
        in_bytes=array_bytes([x]),
        residual_bytes=array_bytes(residual),
        out_bytes=array_bytes([parameters.output]),
        weight_bytes=array_bytes([weight]),
        macs=macs,
        steps=tiling.steps,
        rows=rows,
        width=width,
        passes=passes,
    )


def rowwise_work(
    parameters: Parameters,
    lanes: int,
    *,
    rows: int | None = None,
    channels: float | None = None,
    taps: int = 1,
    in_bytes: int | None = None,
    staged_bytes: float = 0.0,
) -> Work:
    """The work of a kernel without weights, which goes through rows of channels and combines `taps` of them.

    rows and channels are those of the output, and all activations are read once, if nothing else is said. At the end of
    a row a vector may overlap.
    """
    shape = parameters.output.shape
    rows = math.prod(shape[:-1]) if rows is None else rows
    channels = shape[-1] if channels is None else channels
    vectors = rows * math.ceil(channels / lanes)
    return Work(
        products=vectors * taps,
        loads=vectors * taps,
        stores=vectors,
        tiles=rows,
        staged_bytes=staged_bytes,
        in_bytes=array_bytes(parameters.activations) if in_bytes is None else in_bytes,
        residual_bytes=0,
        out_bytes=array_bytes([parameters.output]),
        weight_bytes=0,
        macs=vectors * lanes * taps,
        steps=taps,
        rows=rows,
        width=channels,
    )
