"""Four accumulators of sixteen lanes to 64 bytes by saturating packs, and from there to their places in the output.

A vector is four quads of four lanes. Packing four vectors leaves, in each quarter of the result, one quad of each of
them, so a single permute of double words brings any arrangement of quads to the order of the output.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.tir import Code, intrin, ramp

_PACK_WORDS = "llvm.x86.avx512.packssdw.512"
_PACK_BYTES = "llvm.x86.avx512.packuswb.512"
_ADD_WORDS = "llvm.sadd.sat"


@dataclass(frozen=True)
class Quad:
    """Where four lanes of an accumulator belong: an output position, and channel + offset of their first channel."""

    position: str
    channel: str
    offset: int


def natural_quads(position: str, channel: str, offset: int) -> tuple[Quad, ...]:
    """The quads of sixteen consecutive channels."""
    return tuple(Quad(position, channel, offset + 4 * i) for i in range(4))


def pack(code: Code, name: str, vectors: list[str]) -> str:
    """uint8x64 of one to four int32x16 + the zero point `v_zw` (int16x32), saturated to 0..255."""
    padded = [vectors[min(i, len(vectors) - 1)] for i in range(4)]
    words: list[str] = []
    for i, (first, second) in enumerate((padded[:2], padded[2:])):
        if i and len(vectors) <= 2:
            words.append(words[0])
            continue
        both = intrin("int16x32", _PACK_WORDS, first, second)
        words.append(code.let(f"{name}_w{i}", intrin("int16x32", _ADD_WORDS, both, "v_zw")))
    return code.let(f"{name}_q", f'T.reinterpret("uint8x64", {intrin("int8x64", _PACK_BYTES, *words)})')


def scatter(code: Code, packed: str, cells: list[tuple[Quad, ...]], stored: int) -> None:
    """Store the quads of the `cells` that `pack` put into `packed`; `stored` is the length of an output position.

    Stores are of 16, 32 and 64 bytes; where only half of the last 16 channels exists it fills both halves.
    """
    places: dict[tuple[str, str], dict[int, int]] = {}
    for i, quads in enumerate(cells):
        for lane, quad in enumerate(quads):
            places.setdefault((quad.position, quad.channel), {}).setdefault(quad.offset, 4 * lane + i)
    segments: list[tuple[str, list[int]]] = []
    for (position, channel), by_offset in places.items():
        for offset, words in _runs(by_offset):
            done = 0
            for size in (16, 8, 4):
                while len(words) - done >= size:
                    at = f"({position}) * {stored} + {channel} + {offset + 4 * done}"
                    segments.append((at, words[done : done + size]))
                    done += size
    segments.sort(key=lambda segment: -len(segment[1]))
    filled: list[list[tuple[str, list[int]]]] = [[]]
    for segment in segments:
        if sum(len(words) for _, words in filled[-1]) + len(segment[1]) > 16:
            filled.append([])
        filled[-1].append(segment)
    for n, group in enumerate(filled):
        _store(code, packed, f"{packed}_{n}", group)


def _runs(by_offset: dict[int, int]) -> list[tuple[int, list[int]]]:
    """(first offset, double words) of consecutive quads, each run filled up to whole blocks of four quads."""
    runs: list[tuple[int, list[int]]] = []
    for offset in sorted(by_offset):
        if runs and runs[-1][0] + 4 * len(runs[-1][1]) == offset:
            runs[-1][1].append(by_offset[offset])
        else:
            runs.append((offset, [by_offset[offset]]))
    return [(offset, words + words[-(len(words) % 4) :] * (len(words) % 4 > 0)) for offset, words in runs]


def _store(code: Code, packed: str, name: str, group: list[tuple[str, list[int]]]) -> None:
    words = [word for _, part in group for word in part]
    words += words[: 16 - len(words)] * 4
    words = words[:16]
    if words != list(range(16)):
        order = [4 * word + byte for word in words for byte in range(4)]
        packed = code.let(name, f"T.Shuffle([{packed}], {order})")
    start = 0
    for at, part in group:
        size = 4 * len(part)
        value = packed if size == 64 else f"T.Shuffle([{packed}], {list(range(start, start + size))})"
        code.line(f"O[{ramp(at, size)}] = {value}")
        start += size
