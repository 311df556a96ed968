"""The loops that find the largest or smallest elements of rows, in their order; the first of equal ones comes first.

A heap holds the best so far, the worst of them on top. Elements are taken as whole numbers of the same order, a block
of vectors at a time: a block whose best is no better than the heap's worst is passed over. A heap's entry is one number
that orders by the element, then by its place, so that no two are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_mpq.kernels.emit import (
    Buffer,
    Index,
    Register,
    Value,
    alloc,
    both,
    constant,
    let,
    loop,
    maximum,
    minimum,
    select,
    tiles,
    when,
)
from tvm_mpq.kernels.emit.lanes import across
from tvm_mpq.kernels.frames.elementwise import rows

_VECTORS = 4
"""Of a block. Few elements are better than a heap's worst, once it has seen some."""

_NAN = 0x7F800001  # beyond infinity
_LEAST, _MOST = -(2**31), 2**63 - 1
_PLACES = 2**31 - 1


@dataclass(frozen=True)
class TopElements:
    """The `count` best of `length` elements, of each of `outer` x `inner` rows whose elements lie `inner` apart.

    NaN is above infinity; zeros of both signs are equal.
    """

    outer: int
    length: int
    inner: int
    count: int
    largest: bool

    def write(self, threads: int, lanes: int, x: Buffer, values: Buffer, places: Buffer) -> None:
        """x [outer, length, inner] float32; values, places int32 or int64: [outer, count, inner]."""
        with rows(threads, self.outer * self.inner, 4 * self.outer * self.inner * self.length) as row:
            _Row(self, lanes, x, row).write(values, places)


class _Row:
    """Writes the code of one row.

    keys: its elements as whole numbers; heap: entries, and behind the last one numbers that never rise; worst: of the
    heap's elements.
    """

    def __init__(self, top: TopElements, lanes: int, x: Buffer, row: Value) -> None:
        self.top, self.lanes, self.x, self.row = top, lanes, x, row
        self.block = lanes * _VECTORS
        self.padded = tiles(top.length, self.block) * self.block
        self.start = self._begin(top.length)
        self.keys = alloc(self.padded, "int32")
        self.heap = alloc(2 * top.count + 1, "int64")
        self.at, self.child = Register(1, "int32"), Register(1, "int32")
        self.worst = Register(1, "int32")

    def _begin(self, length: int) -> Value:
        """Where the row begins in a tensor of rows of this length."""
        inner = self.top.inner
        return let(self.row // inner * (length * inner) + self.row % inner, "begin")

    def write(self, values: Buffer, places: Buffer) -> None:
        count, inner = self.top.count, self.top.inner
        target = self._begin(count)
        with loop(count) as i:
            self.heap[i] = constant(_LEAST << 32, "int64")
        with loop(count, 2 * count + 1) as i:
            self.heap[i] = constant(_MOST, "int64")
        self.worst.value = constant(_LEAST, "int32")
        self._scan()
        with loop(count) as i:
            worst = let(self.heap[0], "entry")
            # Through a register: TVM's simplifier would multiply the constants of an index beyond int32.
            self.child.value = (_PLACES - (worst & _PLACES)).cast("int32")
            place = let(self.child.value, "place")
            to = let(target + (count - 1 - i) * inner, "to")
            values[to] = self.x[self.start + place * inner]
            places[to] = place.cast(places.dtype)
            self._sink(constant(_MOST, "int64"))

    def _scan(self) -> None:
        """All elements that are better than the heap's worst enter it."""
        block, padded, length = self.block, self.padded, self.top.length
        with loop(length // self.lanes) as v:
            self.keys.store(v * self.lanes, self._key(v * self.lanes, self.lanes))
        with loop(length // self.lanes * self.lanes, length) as i:
            self.keys.store(i, self._key(i, 1))
        with loop(length, padded) as i:
            self.keys[i] = constant(_LEAST, "int32")
        with loop(padded // block) as b:
            best = self.keys.load(b * block, self.lanes)
            for n in range(1, _VECTORS):
                best = maximum(best, self.keys.load(b * block + n * self.lanes, self.lanes))
            with when(across(let(best), maximum) > self.worst.value), loop(block) as i:
                place = let(b * block + i, "place")
                key = let(self.keys[place], "key")
                with when(key > self.worst.value):
                    self._sink(let((key.cast("int64") << 32) + (_PLACES - place.cast("int64")), "entry"))
                    self.worst.value = (self.heap[0] >> 32).cast("int32")

    def _key(self, i: Index, lanes: int) -> Value:
        """Elements from number i of the row on, as whole numbers that are larger for better ones."""
        at = self.start + i * self.top.inner
        bits = let(self.x.load(at, lanes, self.top.inner).reinterpret("int32", lanes), "bits")
        size = let(minimum(bits & 0x7FFFFFFF, _NAN), "size")
        negative = both(bits < 0, size < _NAN)
        below = let(constant(0, "int32", lanes) - size, "below")
        return select(negative, below, size) if self.top.largest else select(negative, size, below)

    def _sink(self, entry: Value) -> None:
        """The entry takes the top's place, and what is worse rises above it."""
        self.at.value = constant(0, "int32")
        with loop(self.top.count.bit_length() - 1):
            left = let(2 * self.at.value + 1, "left")
            self.child.value = left + (self.heap[left + 1] < self.heap[left]).cast("int32")
            with when(self.heap[self.child.value] < entry):
                self.heap[self.at.value] = self.heap[self.child.value]
                self.at.value = self.child.value
        self.heap[self.at.value] = entry


def top_elements(shape: tuple[int, ...], axis: int, count: int, largest: bool) -> TopElements:
    """Along one axis of a dense tensor."""
    return TopElements(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]), count, largest)
