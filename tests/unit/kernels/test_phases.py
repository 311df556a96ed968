"""Phases of a convolution over a dilated input: what is read lies in the bordered rows, and is all that tiles read."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tvm_mpq.kernels.emit.tiles import tiles
from tvm_mpq.kernels.frames.border import rows_read
from tvm_mpq.kernels.shapes.geometry import Geometry, PhaseAxis
from tvm_mpq.schema import Conv2dWorkload


@st.composite
def axes(draw: st.DrawFn) -> tuple[PhaseAxis, int]:
    """An axis and the size of its input."""
    factor, kernel, size = draw(st.integers(1, 5)), draw(st.integers(1, 7)), draw(st.integers(1, 9))
    before, after = draw(st.integers(1 - kernel, kernel + 2)), draw(st.integers(1 - kernel, kernel + 2))
    extent = (size - 1) * factor + 1 + before + after - kernel + 1
    return PhaseAxis(factor, kernel, before, max(extent, factor)), size


@given(axes())
def test_phases_are_the_taps_of_the_dilated_input(given_: tuple[PhaseAxis, int]) -> None:
    axis, size = given_
    before, behind = axis.border(size)
    seen = []
    for phase in range(axis.factor):
        start, outputs, first = axis.start(phase), axis.outputs(phase), axis.first_tap(phase)
        assert isinstance(start, int) and isinstance(outputs, int)
        seen += [phase + axis.factor * i for i in range(outputs)]
        for i in (0, outputs - 1):
            output = phase + axis.factor * i
            # taps that meet an input, where zeros are inserted: dilated position = output + tap - padding
            met = {(output + k - axis.padding) // axis.factor: k for k in range(first, axis.kernel, axis.factor)}
            assert all((output + k - axis.padding) % axis.factor == 0 for k in met.values())
            assert list(met) == [start + i + j for j in range(len(met))]
        assert start + before >= 0 and start + outputs - 1 + axis.taps <= size + behind
        assert len(range(first, axis.kernel, axis.factor)) <= axis.taps
    assert sorted(seen) == list(range(axis.extent))
    starts = [axis.start(phase) for phase in range(axis.factor)]
    assert starts[-1] - starts[0] == axis.span  # type: ignore[operator]


@given(axes(), st.integers(1, 4), st.integers(1, 3))
def test_the_border_holds_what_tiles_read_and_no_more(given_: tuple[PhaseAxis, int], tile: int, threads: int) -> None:
    axis, size = given_
    after = axis.extent + axis.kernel - 2 - (size - 1) * axis.factor - axis.padding
    w = Conv2dWorkload(
        1, size, 1, 16, 16, (axis.kernel, 1), padding=(axis.padding, 0, after, 0), input_dilation=(axis.factor, 1)
    )
    if axis.factor == 1 and axis.padding < 0:
        return  # nothing makes such a convolution
    g = Geometry.of(w, 8)
    rows = min(tile, g.least_height)
    count = tiles(g.out_height, rows)
    top = g.padding[0]
    for low, high in itertools.pairwise([t * count // threads for t in range(threads + 1)]):
        first, last = rows_read(g, rows, (low, high))
        assert isinstance(first, int) and isinstance(last, int)
        assert first >= 0 and last <= g.rows
        for phase in range(axis.factor):
            start, outputs = (axis.start(phase), axis.outputs(phase)) if g.phases else (-top, g.out_height)
            assert isinstance(start, int) and isinstance(outputs, int)
            for i in range(low, high):
                row = min(i * rows, outputs - rows) + start + top
                assert first <= row and row + g.reach(0, rows) <= last
