"""Loops of operators that read each element once: over all elements, over rows, over pairs of tensors.

Loops walk vectors of a fixed number of lanes; where a length is not a multiple of it, the last vector overlaps the one
before it: nothing is masked, nothing outside is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from tvm_mpq.kernels.emit import Buffer, Value, fit_lanes, let, loop, overlap, parallel, span, tiles, unrolled
from tvm_mpq.kernels.emit.quantize import ByteTable

_PARALLEL_FROM = 50_000  # elements of `add`, about 7 us: below, starting threads costs more than it saves
_LOOK_UP_EASE = 4
_SCALAR_UNROLL = 16


@contextmanager
def rows(threads: int, count: int, elements: int) -> Iterator[Value]:
    """Each of `count` rows, on several threads where they are worth their start.

    elements: how many elements `add` would take the time for that all rows take.
    """
    divided = count > 1 and threads > 1 and elements > _PARALLEL_FROM
    with parallel(count) if divided else loop(count) as row:
        yield row


@contextmanager
def flat(threads: int, total: int, lanes: int, *, ease: int = 1) -> Iterator[tuple[Value, int]]:
    """All vectors of `total` elements: (first element, lanes).

    ease: how many elements are done in the time that `add` takes for one.
    """
    lanes = fit_lanes(total, lanes)
    with rows(threads, tiles(total, lanes), total // ease) as v:
        yield let(overlap(v, lanes, total), "i"), lanes


@contextmanager
def pairs(
    threads: int, shape: tuple[int, ...], second: tuple[int, ...], lanes: int
) -> Iterator[tuple[Value, Value, int]]:
    """All vectors of a tensor and what of a second one meets them: (index, index in the second, lanes).

    second: `shape`, or [N, 1, …, C], which is broadcast.
    """
    if shape == second:
        with flat(threads, math.prod(shape), lanes) as (i, width):
            yield i, i, width
        return
    batch, channels, positions = shape[0], shape[-1], math.prod(shape[1:-1])
    with rows(threads, batch * positions, math.prod(shape)) as r:
        for c, width in span(channels, lanes):
            yield r * channels + c, c if batch == 1 else r // positions * channels + c, width


def look_up_all(threads: int, table: Buffer, source: Buffer, out: Buffer, wide: bool) -> None:
    """out[i] = table[source[i]] for all bytes; every byte once, so that `source` may be `out` unless it is `wide`.

    wide: with a table in registers, which needs `features.VBMI`.
    """
    total = out.size
    if wide and total >= ByteTable.lanes:
        registers = ByteTable(table)
        with flat(threads, total, ByteTable.lanes, ease=_LOOK_UP_EASE) as (i, lanes):
            out.store(i, registers.look_up(let(source.load(i, lanes), "index")))
        return
    lanes = math.gcd(total, _SCALAR_UNROLL)
    with rows(threads, total // lanes, total) as row, unrolled(lanes) as j:
        out[row * lanes + j] = table[source[row * lanes + j].cast("int32")]
