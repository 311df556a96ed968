"""Four accumulators to as many bytes by saturating packs, and from there to their places in the output.

A vector of sixteen lanes (AVX-512) or eight (AVX2) is four or two quads of four lanes. Packing four vectors leaves, in
each 16 bytes of the result, one quad of each of them, so a single permute of double words brings any arrangement of
quads to the order of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm_mpq.kernels.emit.code import Buffer, let
from tvm_mpq.kernels.emit.value import Index, Value, intrinsic, shuffle

_PACK_WORDS = {16: "llvm.x86.avx512.packssdw.512", 8: "llvm.x86.avx2.packssdw"}
_PACK_BYTES = {16: "llvm.x86.avx512.packuswb.512", 8: "llvm.x86.avx2.packuswb"}
"""By the lanes of an accumulator."""
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


def natural_quads(position: Value, channel: Value, offset: int, lanes: int = 16) -> tuple[Quad, ...]:
    """The quads of so many consecutive channels."""
    return tuple(Quad(position, channel, offset + i) for i in range(0, lanes, 4))


def quads_apart(halves: Sequence[Value]) -> list[Value]:
    """Two vectors of eight lanes, quads 0 and 1, 2 and 3, as quads 0 and 2, 1 and 3; the same way back."""
    return [shuffle(halves, [*range(i, i + 4), *range(8 + i, 12 + i)]) for i in (0, 4)]


def pack(vectors: list[Value], zero_point: Value) -> Value:
    """uint8x4n of one to four int32xn + `zero_point` (int16x2n), saturated to 0..255; n: 16 or 8."""
    n = vectors[0].lanes
    padded = [vectors[min(i, len(vectors) - 1)] for i in range(4)]
    words: list[Value] = []
    for i, (first, second) in enumerate((padded[:2], padded[2:])):
        if i and len(vectors) <= 2:
            words.append(words[0])
            continue
        pair = intrinsic(_PACK_WORDS[n], "int16", 2 * n, first, second)
        words.append(let(intrinsic(_ADD_WORDS, "int16", 2 * n, pair, zero_point), "words"))
    return let(intrinsic(_PACK_BYTES[n], "int8", 4 * n, *words).reinterpret("uint8", 4 * n), "packed")


def scatter(out: Buffer, packed: Value, cells: list[tuple[Quad, ...]], stored: int) -> None:
    """Store the quads of the `cells` that `pack` put into `packed`; `stored` is the length of an output position.

    Stores are of the whole, a half and a quarter of its bytes; where only half of the last 16 channels exists it fills
    both halves.
    """
    total = packed.lanes // 4
    places: dict[tuple[Value, Value], dict[int, int]] = {}
    for i, quads in enumerate(cells):
        for lane, quad in enumerate(quads):
            places.setdefault((quad.position, quad.channel), {}).setdefault(quad.offset, 4 * lane + i)
    if _stores_pairs(places, total):
        for (position, channel), by_offset in places.items():
            for offset, word in by_offset.items():
                if offset % 8 == 0:
                    out.store(position * stored + channel + offset, shuffle([packed], range(4 * word, 4 * word + 8)))
        return
    segments: list[tuple[Index, list[int]]] = []
    for (position, channel), by_offset in places.items():
        for offset, words in _runs(by_offset, total // 4):
            done = 0
            for size in (total, total // 2, total // 4):
                while len(words) - done >= size:
                    at = position * stored + channel + (offset + 4 * done)
                    segments.append((at, words[done : done + size]))
                    done += size
    segments.sort(key=lambda segment: -len(segment[1]))
    filled: list[list[tuple[Index, list[int]]]] = [[]]
    for segment in segments:
        if sum(len(words) for _, words in filled[-1]) + len(segment[1]) > total:
            filled.append([])
        filled[-1].append(segment)
    for group in filled:
        _store(out, packed, group)


def _stores_pairs(places: dict[tuple[Value, Value], dict[int, int]], total: int) -> bool:
    """Whether eight bytes in a row belong together everywhere: storing them takes less than a permute in AVX2.

    Not where all bytes are in their order already.
    """
    if total == 8 and list(places.values()) == [{4 * word: word for word in range(total)}]:
        return False
    pairs = [(by_offset, offset) for by_offset in places.values() for offset in by_offset if offset % 8 == 0]
    together = all(by.get(offset + 4, -1) == by[offset] + 1 for by, offset in pairs)
    return total == 8 and together and 2 * len(pairs) == sum(map(len, places.values()))


def _runs(by_offset: dict[int, int], vector: int) -> list[tuple[int, list[int]]]:
    """(first offset, double words) of consecutive quads, each run filled up to the quads of whole vectors."""
    runs: list[tuple[int, list[int]]] = []
    for offset in sorted(by_offset):
        if runs and runs[-1][0] + 4 * len(runs[-1][1]) == offset:
            runs[-1][1].append(by_offset[offset])
        else:
            runs.append((offset, [by_offset[offset]]))
    return [(offset, words + words[len(words) - len(words) % vector :]) for offset, words in runs]


def _store(out: Buffer, packed: Value, group: list[tuple[Index, list[int]]]) -> None:
    total = packed.lanes // 4
    words = [word for _, part in group for word in part]
    words += words[: total - len(words)] * 4
    words = words[:total]
    if words != list(range(total)):
        packed = let(shuffle([packed], [4 * word + byte for word in words for byte in range(4)]), "placed")
    start = 0
    for at, part in group:
        size = 4 * len(part)
        out.store(at, packed if size == packed.lanes else shuffle([packed], range(start, start + size)))
        start += size
