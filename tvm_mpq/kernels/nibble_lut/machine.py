"""What one machine contributes to a look-up convolution: the look-up itself, and adding neighbouring bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Machine(ABC):
    """rows: tables that one instruction looks up, each in its own 16 bytes of the vector."""

    rows: int
    registers: int

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
