"""Tiles and shares: how extents are cut for registers and threads.

A tile that does not divide its extent is not cut at the end: the last one is moved back and overlaps the one before it,
so that every tile is whole and nothing is masked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tvm_mpq.kernels.emit.code import Buffer, Register, let, loop, parallel
from tvm_mpq.kernels.emit.value import Index, Value, constant, minimum, shuffle
from tvm_mpq.numerics.arrays import ByteArray


def tiles(extent: int, tile: int) -> int:
    """How many tiles cover an extent."""
    return -(-extent // tile)


def overlap(index: Value, tile: int, extent: Index) -> Value:
    """Where tile number `index` starts: index * tile, or so that the last one ends with the extent."""
    start = index * tile
    if isinstance(extent, int) and extent % tile == 0:
        return start
    return minimum(start, extent - tile)


@dataclass(frozen=True)
class Task:
    """One thread's part of the work; without an index, all of it."""

    threads: int
    index: Value | None

    def share(self, count: int) -> tuple[Index, Index]:
        """Begin and end of this task's share of `count`."""
        if self.index is None:
            return 0, count
        return self.index * count // self.threads, (self.index + 1) * count // self.threads

    def offset(self, size: int) -> Index:
        """Where this task's own `size` elements begin in a buffer that holds those of all tasks."""
        return 0 if self.index is None else self.index * size


@contextmanager
def split(threads: int) -> Iterator[Task]:
    """The body of one thread's task, or plain code where there is one thread."""
    if threads == 1:
        yield Task(1, None)
        return
    with parallel(threads) as index:
        yield Task(threads, index)


def split_axis(counts: dict[str, int], threads: int) -> str:
    """Which of several loops (name: trips) to divide over threads: the best balanced, the first among equals."""
    return min(counts, key=lambda axis: tiles(counts[axis], threads) * threads / counts[axis])


def even_tile(extent: int, limit: int) -> int:
    """The tile of at most `limit` whose overlap is least: ceil(extent / ceil(extent / limit))."""
    return math.ceil(extent / tiles(extent, limit))


def accumulators(rows: int, lanes: Sequence[int], dtype: str) -> list[list[Register]]:
    """A register tile: for each of `rows` one accumulator of each number of `lanes`."""
    return [[Register(n, dtype) for n in lanes] for _ in range(rows)]


def clear(accs: Iterable[Iterable[Register]]) -> None:
    """Set all accumulators of a tile to zero."""
    for acc in (acc for row in accs for acc in row):
        acc.value = zeros(acc.lanes, acc.dtype)


def chunks(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, size, times) that cover `count` elements by vectors of falling `sizes`; the last must divide the rest."""
    start = 0
    for size in sizes:
        times = (count - start) // size
        if times:
            yield start, size, times
            start += times * size


def copy(target: Buffer, to: Index, source: Buffer, start: Index, count: int, sizes: Sequence[int]) -> None:
    """target[to + i] = source[start + i] for `count` elements, in the type of the target."""
    for first, size, times in chunks(count, sizes):
        with loop(times) as i:
            at = first + i * size
            value = source.load(start + at, size)
            target.store(to + at, value if source.dtype == target.dtype else value.cast(target.dtype))


def fill(target: Buffer, to: Index, value: Value, count: int, sizes: Sequence[int]) -> None:
    """target[to + i] = value for `count` elements."""
    for first, size, times in chunks(count, sizes):
        with loop(times) as i:
            target.store(to + (first + i * size), value.broadcast(size))


def fill_overlapping(target: Buffer, to: Index, value: Value, count: int) -> None:
    """The same by vectors of up to 16 elements, the last of which overlaps the one before it."""
    for i, lanes in span(count, 16):
        target.store(to + i, value.broadcast(lanes))


def fit_lanes(count: int, lanes: int) -> int:
    """The most lanes, a power of two up to `lanes`, that `count` elements fill.

    >>> fit_lanes(7, 16), fit_lanes(100, 16)
    (4, 16)
    """
    return min(lanes, 1 << (count.bit_length() - 1))


def span(count: int, lanes: int) -> Iterator[tuple[Value, int]]:
    """One loop over vectors that cover `count` elements: (first element, lanes), fewer lanes where count is small."""
    if count == 0:
        return
    lanes = fit_lanes(count, lanes)
    with loop(tiles(count, lanes)) as v:
        yield overlap(v, lanes, count), lanes


def zeros(lanes: int, dtype: str) -> Value:
    """A vector of zeros."""
    return constant(0, dtype, lanes)


def byte_vector(values: ByteArray) -> Value:
    """A constant vector of bytes, through words because TIR has no other notation for one."""
    words = [constant(int(word), "int32") for word in values.view(np.int32)]
    return shuffle(words, range(len(words))).reinterpret("uint8", len(values))


def repeated_byte(byte: int, lanes: int) -> Value:
    """int32 lanes of four equal bytes each."""
    word = byte * 0x01010101
    return constant(word - (1 << 32) if word >= 1 << 31 else word, "int32", lanes)


def bind(index: Index, name: str = "") -> Index:
    """`let`, for an index that may be a Python number."""
    return let(index, name) if isinstance(index, Value) else index


def even_blocks(vectors: int, widest: int) -> list[tuple[int, int]]:
    """`vectors` cut into blocks as even as possible, none above `widest`: (size, how many).

    >>> even_blocks(13, 4), even_blocks(8, 4)
    ([(4, 1), (3, 3)], [(4, 2)])
    """
    count = tiles(vectors, widest)
    size, more = divmod(vectors, count)
    return [(n, times) for n, times in ((size + 1, more), (size, count - more)) if times]
