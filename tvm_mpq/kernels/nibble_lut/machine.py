"""What one machine contributes to a look-up convolution: the look-up itself, and how looked-up bytes are counted."""

from __future__ import annotations

from abc import ABC, abstractmethod

from tvm_mpq.kernels.tir import Code


class Machine(ABC):
    """rows: tables that one instruction looks up, each in its own 16 bytes of the vector.

    byte_channels: which of 16 output channels each byte of a row belongs to, where no two bits stand beside each other.
    """

    rows: int
    registers: int
    byte_channels: tuple[int, ...]

    @property
    def width(self) -> int:
        """Bytes of a vector."""
        return 16 * self.rows

    @abstractmethod
    def find(self, tables: str, index: str) -> str:
        """uint8 entries of `tables` at `index` < 16, 16 bytes by 16 bytes."""

    @abstractmethod
    def add_pairs(self, acc: str, found: str) -> str:
        """acc (uint16) plus the sums of bytes 2j and 2j + 1 of `found`."""

    @abstractmethod
    def count(self, code: Code, counters: list[str], found: str) -> None:
        """Add every byte of `found` to the two counters (uint16, assignable) of a part."""

    @abstractmethod
    def halves(self, counters: list[str]) -> list[str]:
        """uint16 sums of output channels 0..7 and 8..15 in the counters that `count` has filled."""
