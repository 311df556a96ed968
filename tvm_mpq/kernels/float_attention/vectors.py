"""Vector pieces that the attention kernel is written with: transposing blocks, reducing lanes, register tiles."""

from __future__ import annotations

from typing import Protocol

from tvm_mpq.kernels.float_conv.emit import Emitter, splat, vec


class Lines(Protocol):
    """Something that collects lines of TVMScript."""

    def line(self, text: str) -> None: ...


def transpose_block(e: Lines, lanes: int, source: str, rows: list[str], target: str, columns: list[str]) -> None:
    """target[columns[j] + i] = source[rows[i] + j] for i, j < lanes: log2(lanes) rounds of two-vector shuffles.

    A round exchanges, between the vectors i and i + half, the lanes whose number has the bit of `half` set.
    """
    names = []
    for i in range(lanes):
        e.line(f"t0_{i}: T.let = {vec(source, rows[i], lanes)}")
        names.append(f"t0_{i}")
    half, step = lanes // 2, 1
    while half:
        low = [lanes + n - half if n & half else n for n in range(lanes)]
        high = [lanes + n if n & half else n + half for n in range(lanes)]
        turned = list(names)
        for i in range(lanes):
            if i & half:
                continue
            for place, order in ((i, low), (i + half, high)):
                turned[place] = f"t{step}_{place}"
                e.line(f"{turned[place]}: T.let = T.Shuffle([{names[i]}, {names[i + half]}], {order})")
        names, half, step = turned, half // 2, step + 1
    for j in range(lanes):
        e.line(f"{vec(target, columns[j], lanes)} = {names[j]}")


def across(e: Lines, name: str, value: str, lanes: int, join: str) -> str:
    """Bind the reduction of one vector's lanes; join: text with {a} and {b}. Returns the scalar's name."""
    part, width = value, lanes
    while width > 1:
        width //= 2
        halves = []
        for side, first in (("a", 0), ("b", width)):
            order = list(range(first, first + width))
            e.line(f"{name}_{width}{side}: T.let = T.Shuffle([{part}], {order})")
            halves.append(f"{name}_{width}{side}")
        e.line(f"{name}_{width}: T.let = {join.format(a=halves[0], b=halves[1])}")
        part = f"{name}_{width}"
    return part


def tile_buffers(e: Emitter, prefix: str, rows: int, vectors: int, lanes: int) -> None:
    """One small buffer for each vector of a register tile."""
    for r in range(rows):
        for n in range(vectors):
            e.vector_buffer(f"{prefix}{r}_{n}", lanes)


def tile_product(
    e: Emitter, prefix: str, rows: int, vectors: int, lanes: int, length: int, left: str, right: str
) -> None:
    """tile[r][n] = sum over k < length of left(r, k) * right(k, n).

    left: text with {r} and k, a scalar; right: text with {n} and k, the flat index of a vector with its buffer as
    `buffer|index`.
    """
    buffer, index = right.split("|")
    for r in range(rows):
        for n in range(vectors):
            e.line(f"{vec(f'{prefix}{r}_{n}', '0', lanes)} = {splat('T.float32(0)', lanes)}")
    with e.block(f"for k in range({length}):"):
        for n in range(vectors):
            e.line(f"right_{n}: T.let = {vec(buffer, index.format(n=n), lanes)}")
        for r in range(rows):
            value = splat(left.format(r=r), lanes)
            for n in range(vectors):
                place = vec(f"{prefix}{r}_{n}", "0", lanes)
                e.line(f"{place} = {place} + {value} * right_{n}")
