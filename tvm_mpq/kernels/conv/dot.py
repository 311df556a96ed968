"""The inner step of a dense convolution on one machine: how a few input channels meet a block of weights.

A `Dot` writes the body of the reduction loop; the frame around it (tiles, borders, threads, epilogue) is `dense.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.tir import Code


class Dot(ABC):
    """One machine's multiply and accumulate.

    lanes: int32 lanes of an accumulator, 16 or a divisor; channels: input channels of one step; shift: bits by which
    the sums are too large and are shifted right (exactly) before the bias comes; halves: whether the last vector of a
    step may be half as wide; unpacks: whether weights are expanded to int8 in a scratch before they are used;
    prefetches: whether asking for weights ahead of time was measured to gain.
    """

    lanes: int = 16
    channels: int = 4
    shift: int = 0
    weight_dtype: str = "int8"
    halves: bool = False
    unpacks: bool = False
    prefetches: bool = False

    @abstractmethod
    def pack(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.generic]:
        """int8[O, KH, KW, cells] to the stored array; its first axis is the blocks of 16 output channels."""

    @abstractmethod
    def packed_shape(self, out_blocks: int, steps: int) -> tuple[int, ...]:
        """Shape of what `pack` returns for `steps` steps in all."""

    @property
    @abstractmethod
    def step_bytes(self) -> int:
        """Weight bytes of one step of one vector of `lanes` output channels."""

    def block_bytes(self, steps: int) -> int:
        """Bytes from one block of 16 output channels to the next, as `step` reads them."""
        return steps * self.step_bytes * (16 // self.lanes)

    def registers(self, positions: int, vectors: int) -> int:
        """Vector registers that a tile needs."""
        return positions * vectors + vectors + 1

    def header(self, code: Code) -> None:  # noqa: B027 - most machines need no constants
        """Bind constants once per call."""

    def unpack(self, code: Code, block: str, target: str, count: int, block_bytes: int) -> None:
        """Expand `count` blocks of weights from `block` on, from P to W at `target`. Only where `unpacks`."""
        raise NotImplementedError

    @abstractmethod
    def step(self, code: Code, xs: list[str], weights: list[str], accs: list[list[str]], half: bool = False) -> None:
        """Accumulate one step.

        xs: byte index of each position's channels in X; weights: byte index of each vector's weights in W;
        accs[position][vector]: accumulator expressions, readable and assignable; half: the last vector has lanes / 2.
        """
