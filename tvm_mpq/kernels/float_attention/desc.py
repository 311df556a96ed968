"""What an attention kernel computes, and where its operands lie."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Operand:
    """A tensor [batch, head, row, feature] inside a flat buffer.

    source: which of the kernel's inputs; strides: elements from one batch, head, row, feature to the next.
    """

    source: int
    offset: int
    strides: tuple[int, int, int, int]

    def index(self, batch: str, head: str, row: str, feature: str) -> str:
        """Text of the flat index of an element."""
        terms = zip((batch, head, row, feature), self.strides, strict=True)
        return " + ".join([str(self.offset), *(f"({name}) * {stride}" for name, stride in terms if name != "0")])


@dataclass(frozen=True)
class AttentionShape:
    """out[b, i, h, :] = sum over j of softmax_j(scale * q[b, h, i, :] . k[b, h, j, :]) * v[b, h, j, :].

    out is float32[batch, queries, heads, value_features], dense. sources: the shapes of the kernel's inputs; scale > 0.
    q may have any strides, the features of v lie side by side, and so do either features or rows of k.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    features: int
    value_features: int
    scale: float
    sources: tuple[tuple[int, ...], ...]
    q: Operand
    k: Operand
    v: Operand

    @property
    def macs(self) -> int:
        return self.batch * self.heads * self.queries * self.keys * (self.features + self.value_features)
