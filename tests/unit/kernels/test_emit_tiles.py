"""Tiles and shares cover what they cut; quads and bytes come out as and where they should."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpq_testing.emitted import compiled
from tvm_mpq.kernels.emit import (
    Function,
    Parameter,
    Task,
    Value,
    chunks,
    clamp,
    constant,
    copy,
    even_tile,
    fill,
    fit_lanes,
    let,
    loop,
    overlap,
    span,
    split,
    split_axis,
    tiles,
)
from tvm_mpq.kernels.emit.quads import Quad, natural_quads, pack, scatter
from tvm_mpq.kernels.emit.quantize import ByteRange, ByteTable, centered, rounded

FAST = settings(max_examples=40, deadline=None)


def number(value: Value) -> int:
    """What an index is that was computed from constants; the builder folds them."""
    return int(value.expr)


@FAST
@given(st.integers(1, 300), st.integers(1, 64))
def test_overlapping_tiles_cover_an_extent(extent: int, tile: int) -> None:
    tile = min(tile, extent)
    starts = [number(overlap(constant(i, "int32"), tile, extent)) for i in range(tiles(extent, tile))]
    assert starts == sorted(set(starts)) and starts[0] == 0 and starts[-1] + tile == extent
    assert all(later - start <= tile for start, later in itertools.pairwise(starts))
    unknown = constant(extent, "int32")  # an extent that is a value too
    assert starts == [number(overlap(constant(i, "int32"), tile, unknown)) for i in range(len(starts))]


@FAST
@given(st.integers(0, 500), st.sets(st.sampled_from([64, 32, 16, 8, 4, 2]), max_size=6))
def test_chunks_cover_a_count_once(count: int, sizes: set[int]) -> None:
    parts = list(chunks(count, [*sorted(sizes, reverse=True), 1]))
    covered = [start + i * size + j for start, size, times in parts for i in range(times) for j in range(size)]
    assert covered == list(range(count))
    assert all(count - start - times * size < size for start, size, times in parts)  # the largest first


@FAST
@given(st.integers(0, 500), st.integers(1, 9))
def test_shares_of_tasks_are_a_partition(count: int, threads: int) -> None:
    shares = [Task(threads, constant(i, "int32")).share(count) for i in range(threads)]
    bounds = [(number(low), number(high)) for low, high in shares if isinstance(low, Value) and isinstance(high, Value)]
    assert [i for low, high in bounds for i in range(low, high)] == list(range(count))
    assert max(high - low for low, high in bounds) - min(high - low for low, high in bounds) <= 1
    assert Task(1, None).share(count) == (0, count) and Task(1, None).offset(count) == 0
    assert number(Task(threads, constant(threads - 1, "int32")).offset(count) + 0) == (threads - 1) * count


@pytest.mark.parametrize("threads", [1, 3])
def test_split_runs_every_task(threads: int) -> None:
    def write(f: Function) -> None:
        with split(threads) as task, loop(*task.share(29)) as i:
            f.flat("out")[i] = f.flat("x")[i] + 1

    run = compiled([Parameter("x", (29,), "int32"), Parameter("out", (29,), "int32")], write)
    np.testing.assert_array_equal(run(np.arange(29, dtype=np.int32)), np.arange(1, 30))


@FAST
@given(st.integers(1, 500), st.integers(1, 64))
def test_even_tiles_are_no_more_and_no_larger(extent: int, limit: int) -> None:
    tile = even_tile(extent, limit)
    assert tile <= limit and tiles(extent, tile) == tiles(extent, limit)
    assert tile == 1 or tiles(extent, tile - 1) > tiles(extent, limit)  # none smaller does with as many


@FAST
@given(st.integers(1, 1000), st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
def test_fitting_lanes_are_the_most_that_fit(count: int, lanes: int) -> None:
    fitting = fit_lanes(count, lanes)
    assert fitting <= min(count, lanes) and fitting & (fitting - 1) == 0
    assert fitting == lanes or 2 * fitting > count


def test_the_split_axis_is_the_most_even_and_the_first_of_equals() -> None:
    assert split_axis({"n": 1, "h": 6, "w": 9}, 3) == "h"
    assert split_axis({"n": 1, "h": 7, "w": 9}, 3) == "w"
    assert split_axis({"n": 1, "h": 1}, 2) == "n"


@pytest.mark.parametrize("count", [0, 1, 3, 7, 16, 33, 90])
def test_copies_fills_and_spans_touch_what_they_should(count: int) -> None:
    """Into the middle of rows of 100: two elements before and all behind stay."""

    def write(f: Function) -> None:
        x, out = f.flat("x"), f.flat("out")
        copy(out, 2, x, 5, count, [16, 4, 1])
        fill(out, 102, constant(9, "uint8"), count, [16, 4, 1])
        for i, lanes in span(count, 16):
            out.store(i + 202, x.load(i + 5, lanes) + 1)

    run = compiled([Parameter("x", (100,), "uint8"), Parameter("out", (3, 100), "uint8")], write)
    x, expected = np.arange(100, dtype=np.uint8), np.full((3, 100), 77, np.uint8)
    expected[:, 2 : 2 + count] = x[5 : 5 + count], np.full(count, 9), x[5 : 5 + count] + 1
    np.testing.assert_array_equal(run(x), expected)


def quad_cells(stored: int, positions: int) -> list[list[tuple[int, int]]]:
    """For each accumulator, the (position, first channel) of its quads; last half blocks of two positions are one."""
    cells = [[(p, block * 16 + 4 * i) for i in range(4)] for p in range(positions) for block in range(stored // 16)]
    if stored % 16:
        last = stored - 8
        cells += [[(p + i, last + o) for i in (0, 1) for o in (0, 4)] for p in range(0, positions, 2)]
    return cells


@pytest.mark.parametrize("stored, positions", [(16, 1), (16, 3), (16, 4), (32, 2), (48, 1), (64, 1), (24, 2)])
def test_quads_come_to_their_places(stored: int, positions: int) -> None:
    """Byte 16 * lane + 4 * cell + i of what packs leave is channel i of that quad; see `Quad`."""
    cells = quad_cells(stored, positions)
    padded = -(-stored // 16) * 16  # where half a block is missing the store fills both halves

    def write(f: Function) -> None:
        packed, channel = let(f.flat("x").load(0, 64)), constant(0, "int32")
        places = [constant(p, "int32") for p in range(positions)]
        natural = stored % 16 == 0
        quads = [
            natural_quads(places[cell[0][0]], channel, cell[0][1])
            if natural
            else tuple(Quad(places[p], channel, c) for p, c in cell)
            for cell in cells
        ]
        scatter(f.flat("out"), packed, quads, padded)

    run = compiled([Parameter("x", (64,), "uint8"), Parameter("out", (positions, padded), "uint8")], write)
    x, expected = np.arange(64, dtype=np.uint8), np.full((positions, padded), 77, np.uint8)
    for i, cell in enumerate(cells):
        for lane, (p, c) in enumerate(cell):
            expected[p, c : c + 4] = x[16 * lane + 4 * i :][:4]
    np.testing.assert_array_equal(run(x)[:, :stored], expected[:, :stored])


@pytest.mark.parametrize(
    "lanes", [pytest.param(16, marks=pytest.mark.isa("avx512bw")), pytest.param(8, marks=pytest.mark.isa("avx2"))]
)
@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
def test_packs_saturate_and_keep_the_order_of_scatter(
    vectors: int, together: int, lanes: int, rng: np.random.Generator
) -> None:
    """together: vectors of one position."""
    x = rng.integers(-400, 400, (vectors, lanes)).astype(np.int32)
    x[0, :4] = -(2**31), 2**31 - 1, -128, 127

    def write(f: Function) -> None:
        packed = pack([f.flat("x").load(lanes * i, lanes) for i in range(vectors)], constant(100, "int16", 2 * lanes))
        places, channel = [constant(i, "int32") for i in range(vectors)], constant(0, "int32")
        cells = [natural_quads(places[i // together], channel, i % together * lanes, lanes) for i in range(vectors)]
        scatter(f.flat("out"), packed, cells, together * lanes)

    run = compiled([Parameter("x", x.shape, "int32"), Parameter("out", x.shape, "uint8")], write)
    np.testing.assert_array_equal(run(x), np.clip(x.astype(np.int64) + 100, 0, 255))


def test_bytes_are_centered_rounded_and_clamped() -> None:
    y = np.float32([-1e30, -3.5, -2.5, -0.5, 0.5, 1.5, 2.5, np.nan, 99.5, 100.5, 1e30, np.inf, -np.inf, 7, 8.49, -7])

    def write(f: Function) -> None:
        v, q, out = f.flat("y").load(0, 16), f.flat("q"), f.flat("out")
        out.store(0, ByteRange(q[0], q[1], q[2]).quantize(v).cast("float32"))
        out.store(16, centered(f.flat("x").load(0, 16), q[0]))
        out.store(32, rounded(clamp(v, -100.0, 100.0)).cast("int8").cast("float32"))

    params = [Parameter("y", (16,), "float32"), Parameter("x", (16,), "uint8"), Parameter("q", (3,), "int32")]
    run = compiled([*params, Parameter("out", (3, 16), "float32")], write)
    x, whole = np.arange(0, 256, 17, dtype=np.uint8), np.where(np.isnan(y), -1e30, y)
    bytes_, floats, ints = run(y, x, np.array([10, 8, 120], np.int32))
    np.testing.assert_array_equal(bytes_, np.clip(np.rint(whole) + 10, 8, 120))
    np.testing.assert_array_equal(floats, x.astype(np.float32) - 10)
    np.testing.assert_array_equal(ints, np.rint(np.clip(whole, -100, 100)))


@pytest.mark.isa("avx512vbmi", "avx512bw")
def test_a_table_in_registers_holds_all_bytes(rng: np.random.Generator) -> None:
    def write(f: Function) -> None:
        table = ByteTable(f.flat("table"))
        with loop(4) as i:
            f.flat("out").store(i * 64, table.look_up(let(f.flat("x").load(i * 64, 64))))

    params = [Parameter("table", (256,), "uint8"), Parameter("x", (256,), "uint8"), Parameter("out", (256,), "uint8")]
    table, x = rng.permutation(256).astype(np.uint8), rng.permutation(256).astype(np.uint8)
    np.testing.assert_array_equal(compiled(params, write)(table, x), table[x])
