"""What a machine contributes to a convolution: one step of the sum over input channels, or whole tiles of sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.emit import Buffer, Index, Pointer, Register, Value
from tvm_mpq.kernels.shapes.geometry import BLOCK, Geometry
from tvm_mpq.numerics.arrays import Int8Array


class ConvolutionMachine(ABC):
    """What the frame asks of every machine.

    lanes: int32 lanes of an accumulator, 16 or a divisor; channels: input channels of one step; input_dtype: of the
    inputs that it reads, which are copied where they are not stored so; taken: what it takes from every input before it
    multiplies; unpacks: whether weights are expanded to int8 in a scratch before they are
    used; llvm: code that defines what steps call by name.
    """

    lanes: int = BLOCK
    channels: int = 4
    input_dtype: str = "uint8"
    taken: int = 0
    weight_dtype: str = "int8"
    unpacks: bool = False
    llvm: str | None = None

    @property
    def terms(self) -> int:
        """Products that one step adds to each lane."""
        return self.channels

    @abstractmethod
    def pack(self, weight: Int8Array) -> npt.NDArray[np.generic]:
        """int8[O, KH, KW, cells] to the stored array; its first axis is the blocks of 16 output channels."""

    @abstractmethod
    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        """Shape of what `pack` returns for `steps` steps in all."""

    @abstractmethod
    def block_bytes(self, steps: int) -> int:
        """Bytes from one block of 16 output channels to the next, as they are read."""

    def prepare(self) -> None:  # noqa: B027 - most machines need no constants
        """Bind constants once per call."""

    def unpack(self, packed: Buffer, block: Index, count: int, target: Buffer, to: Index, block_bytes: int) -> None:
        """Expand `count` blocks of weights from `block` on into `target` from `to` on.

        Raises NotImplementedError unless `unpacks`.
        """
        raise NotImplementedError


class Dot(ConvolutionMachine):
    """A machine that multiplies and accumulates step by step: how a few input channels meet a block of weights.

    The accumulators and the loops are the frame's. shift: bits by which the sums are too large and are shifted right
    (exactly) before the bias comes; halves: whether the last vector of a step may be half as wide; prefetches: whether
    asking for weights ahead of time was measured to gain.
    """

    shift: int = 0
    halves: bool = False
    prefetches: bool = False

    @property
    @abstractmethod
    def step_bytes(self) -> int:
        """Weight bytes of one step of one vector of `lanes` output channels."""

    @property
    def stride_bytes(self) -> int:
        """Weight bytes from one step of a vector to its next: more than a step has where vectors take turns."""
        return self.step_bytes

    def vector_bytes(self, steps: int) -> int:
        """Weight bytes from one vector of a block to the next, in a sum of `steps` steps."""
        return steps * self.step_bytes

    def block_bytes(self, steps: int) -> int:
        return steps * self.step_bytes * (BLOCK // self.lanes)

    def registers(self, positions: int, vectors: int) -> int:
        """Vector registers that a tile needs."""
        return positions * vectors + vectors + 1

    @abstractmethod
    def step(
        self, inputs: Sequence[Pointer], weights: Sequence[Pointer], accs: list[list[Register]], half: bool = False
    ) -> None:
        """Accumulate one step.

        inputs: each position's channels; weights: those of each vector of output channels; accs[position][vector];
        half: the last vector has lanes / 2.
        """


@dataclass(frozen=True)
class Tile:
    """A few output positions x one vector of output channels, as a machine that owns tiles is given them.

    inputs: the first input cell of the first position; offsets: how many cells further each position's are; weights,
    bias: the first of the vector's output channels, or of its block's where these have their quads apart; vector:
    its number within the block of 16 channels.
    """

    g: Geometry
    inputs: Pointer
    offsets: tuple[int, ...]
    weights: Pointer
    bias: Pointer
    vector: Index = 0


class TileMachine(ConvolutionMachine):
    """A machine that owns the sums of a whole tile: its accumulators or its order of taps are not the frame's.

    A tile is `lanes` output channels; the weights of a block's vectors lie behind one another. biased: whether sums
    begin with the bias; otherwise the frame adds it. own_channels: whether the inputs of a vector of output channels
    begin at the channel of the same number; otherwise at the block's first. quads_apart: whether the two vectors of a
    block are channels 0..3 and 8..11, 4..7 and 12..15.
    """

    biased: bool = False
    own_channels: bool = False
    quads_apart: bool = False

    @abstractmethod
    def sums(self, tile: Tile) -> Iterable[Value]:
        """All products of the tile added up: int32 x `lanes` for each position, as soon as they are complete."""
