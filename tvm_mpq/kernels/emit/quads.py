"""Four accumulators of sixteen lanes to 64 bytes by saturating packs, and from there to their places in the output.

A vector is four quads of four lanes. Packing four vectors leaves, in each quarter of the result, one quad of each of
them, so a single permute of double words brings any arrangement of quads to the order of the output.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.emit.code import Buffer, let
from tvm_mpq.kernels.emit.value import Index, Value, intrinsic, shuffle

_PACK_WORDS = "llvm.x86.avx512.packssdw.512"
_PACK_BYTES = "llvm.x86.avx512.packuswb.512"
_ADD_WORDS = "llvm.sadd.sat"


@dataclass(frozen=True)
class Quad:
    """Where four lanes of an accumulator belong: an output position, and channel + offset of their first channel.

    Quads are stored together where `position` and `channel` are the same objects.
    """

    position: Value
    channel: Value
    offset: int

    def index(self, stored: int) -> Index:
        """In the output, whose positions have `stored` elements."""
        return self.position * stored + self.channel + self.offset


def natural_quads(position: Value, channel: Value, offset: int) -> tuple[Quad, ...]:
    """The quads of sixteen consecutive channels."""
    return tuple(Quad(position, channel, offset + 4 * i) for i in range(4))


def pack(vectors: list[Value], zero_point: Value) -> Value:
    """uint8x64 of one to four int32x16 + `zero_point` (int16x32), saturated to 0..255."""
    padded = [vectors[min(i, len(vectors) - 1)] for i in range(4)]
    words: list[Value] = []
    for i, (first, second) in enumerate((padded[:2], padded[2:])):
        if i and len(vectors) <= 2:
            words.append(words[0])
            continue
        pair = intrinsic(_PACK_WORDS, "int16", 32, first, second)
        words.append(let(intrinsic(_ADD_WORDS, "int16", 32, pair, zero_point), "words"))
    return let(intrinsic(_PACK_BYTES, "int8", 64, *words).reinterpret("uint8", 64), "packed")


def scatter(out: Buffer, packed: Value, cells: list[tuple[Quad, ...]], stored: int) -> None:
    """Store the quads of the `cells` that `pack` put into `packed`; `stored` is the length of an output position.

    Stores are of 16, 32 and 64 bytes; where only half of the last 16 channels exists it fills both halves.
    """
    places: dict[tuple[Value, Value], dict[int, int]] = {}
    for i, quads in enumerate(cells):
        for lane, quad in enumerate(quads):
            places.setdefault((quad.position, quad.channel), {}).setdefault(quad.offset, 4 * lane + i)
    segments: list[tuple[Index, list[int]]] = []
    for (position, channel), by_offset in places.items():
        for offset, words in _runs(by_offset):
            done = 0
            for size in (16, 8, 4):
                while len(words) - done >= size:
                    at = position * stored + channel + (offset + 4 * done)
                    segments.append((at, words[done : done + size]))
                    done += size
    segments.sort(key=lambda segment: -len(segment[1]))
    filled: list[list[tuple[Index, list[int]]]] = [[]]
    for segment in segments:
        if sum(len(words) for _, words in filled[-1]) + len(segment[1]) > 16:
            filled.append([])
        filled[-1].append(segment)
    for group in filled:
        _store(out, packed, group)


def _runs(by_offset: dict[int, int]) -> list[tuple[int, list[int]]]:
    """(first offset, double words) of consecutive quads, each run filled up to whole blocks of four quads."""
    runs: list[tuple[int, list[int]]] = []
    for offset in sorted(by_offset):
        if runs and runs[-1][0] + 4 * len(runs[-1][1]) == offset:
            runs[-1][1].append(by_offset[offset])
        else:
            runs.append((offset, [by_offset[offset]]))
    return [(offset, words + words[-(len(words) % 4) :] * (len(words) % 4 > 0)) for offset, words in runs]


def _store(out: Buffer, packed: Value, group: list[tuple[Index, list[int]]]) -> None:
    words = [word for _, part in group for word in part]
    words += words[: 16 - len(words)] * 4
    words = words[:16]
    if words != list(range(16)):
        packed = let(shuffle([packed], [4 * word + byte for word in words for byte in range(4)]), "placed")
    start = 0
    for at, part in group:
        size = 4 * len(part)
        out.store(at, packed if size == 64 else shuffle([packed], range(start, start + size)))
        start += size
