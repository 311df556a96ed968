"""Loop extents of attention: tiles of queries, vectors of keys and of features."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.emit import fit_lanes, tiles
from tvm_mpq.kernels.features import native_lanes
from tvm_mpq.kernels.registry import Request
from tvm_mpq.schema import AttentionWorkload

VECTORS = 2
"""Of a register tile; wider tiles of fewer rows made LLVM spill, and read keys and values more often."""


def attention_of(request: Request) -> AttentionWorkload:
    """The request's workload, known to be attention."""
    assert isinstance(request.workload, AttentionWorkload)
    return request.workload


@dataclass(frozen=True)
class AttentionTiling:
    """How one attention is cut up.

    rows: queries of a register tile; tiles: of queries; lanes: of vectors of keys; out_lanes: of vectors of the result;
    padded: keys filled up to whole vectors; copied: whether rows of v are copied to lie behind one another; key_size,
    value_size: elements of a head's packed keys and values.
    """

    rows: int
    tiles: int
    lanes: int
    out_lanes: int
    padded: int
    copied: bool
    key_size: int
    value_size: int

    @classmethod
    def of(cls, request: Request, rows: int) -> AttentionTiling:
        """With as wide vectors as the machine has and the keys fill."""
        w, widest = attention_of(request), native_lanes(request.features)
        lanes = widest
        while lanes > 4 and lanes > w.keys:
            lanes //= 2
        padded = tiles(w.keys, lanes) * lanes
        return cls(
            rows=rows,
            tiles=tiles(w.queries, rows),
            lanes=lanes,
            out_lanes=fit_lanes(w.value_features, widest),
            padded=padded,
            copied=w.v[-2] != w.value_features,
            key_size=w.features * padded,
            value_size=w.keys * w.value_features,
        )
