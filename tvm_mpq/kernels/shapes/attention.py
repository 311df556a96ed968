"""Loop extents of attention: tiles of queries, vectors of keys and of features."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.emit import fit_lanes, tiles
from tvm_mpq.kernels.features import native_lanes
from tvm_mpq.kernels.registry import Request
from tvm_mpq.schema import FLOAT_BITS, AttentionWorkload, padded_channels

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


def stored_place(place: tuple[int, ...], shape: tuple[int, ...], counts: tuple[int, ...]) -> tuple[int, ...] | None:
    """A place in a tensor of this logical shape, in the bytes of its stored form, whose channels are padded.

    counts: batches, heads, rows and features. None where an axis runs over the end of a row of channels.
    """
    source, offset, *strides = place
    channels = shape[-1]
    stored = padded_channels(channels)
    if stored == channels:
        return place
    reach, found = offset % channels, []
    for stride, count in zip(strides, counts, strict=True):
        rows, rest = divmod(stride, channels)
        if rest and count > 1:
            if rows:
                return None
            reach += rest * (count - 1)
        found.append(rows * stored + rest)
    if reach >= channels:
        return None
    return (source, offset // channels * stored + offset % channels, *found)


@dataclass(frozen=True)
class ByteAttention:
    """How attention on bytes is cut up, for sums of `lanes` to a vector.

    rows: queries of a register tile; tiles: of queries; pairs: of features; padded: keys filled up to whole vectors;
    columns: vectors of value features; key_size, value_size: words of a head's packed keys and values; q, k, v: places
    in stored bytes; stored: bytes of one query's results.
    """

    rows: int
    tiles: int
    lanes: int
    pairs: int
    padded: int
    columns: int
    key_size: int
    value_size: int
    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    stored: int

    @classmethod
    def of(cls, request: Request, rows: int, lanes: int) -> ByteAttention:
        """Raises AssertionError where `stored_places` gives none."""
        w = attention_of(request)
        places = stored_places(w)
        assert places is not None, w
        pairs, padded, columns = tiles(w.features, 2), tiles(w.keys, lanes) * lanes, tiles(w.value_features, lanes)
        channels = w.heads * w.value_features
        return cls(
            rows=rows,
            tiles=tiles(w.queries, rows),
            lanes=lanes,
            pairs=pairs,
            padded=padded,
            columns=columns,
            key_size=2 * pairs * padded,
            value_size=columns * padded * lanes,
            q=places[0],
            k=places[1],
            v=places[2],
            stored=channels if request.out_bits == FLOAT_BITS else padded_channels(channels),
        )


def stored_places(w: AttentionWorkload) -> tuple[tuple[int, ...], ...] | None:
    """Of q, k and v; None where one of them is no strided view of stored bytes."""
    shapes = ((w.queries, w.features), (w.keys, w.features), (w.keys, w.value_features))
    found = []
    for place, shape in zip((w.q, w.k, w.v), shapes, strict=True):
        stored = stored_place(place, w.sources[place[0]], (w.batch, w.heads, *shape))
        if stored is None:
            return None
        found.append(stored)
    return tuple(found)
