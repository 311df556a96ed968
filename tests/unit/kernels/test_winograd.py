"""3x3 convolutions by Winograd's transform equal the definition bit for bit, and their operands fit where they must."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mpq_testing import low_bit
from mpq_testing.slowly import SLOW, slow_but
from tvm_mpq.kernels import Family, Kernel, Request, families, fitting
from tvm_mpq.kernels.packing.winograd import TRANSFORMS, Winograd, pack_winograd, packed_shape
from tvm_mpq.schema import Conv2dWorkload, Precision

C = Conv2dWorkload
SAME = (1, 1, 1, 1)
AVX2 = frozenset({"avx2"})
avx2 = pytest.mark.isa("avx2", "fma")
check = functools.partial(low_bit.check, mcpu="haswell")


def row() -> Family:
    (found,) = (f for f in families() if f.name == "qu8_qs8_s32_winograd__avx2")
    return found


def request(w: C, precision: str = "w8a8", out_bits: int = 8, threads: int = 1) -> Request:
    return Request(w, Precision.parse(precision), out_bits, AVX2, threads)


@pytest.mark.parametrize("t", TRANSFORMS.values(), ids=str)
def test_transforms_give_scaled_outputs(t: Winograd) -> None:
    """As polynomials of inputs and taps: output k has d[k + j] g[j] for each j, times the scale, and nothing else."""
    found = np.einsum("ki,ij,il->kjl", *map(np.array, (t.outputs, t.taps, t.inputs)))
    expected = np.zeros((t.outputs_at_once, 3, t.points), int)
    for k in range(t.outputs_at_once):
        for j in range(3):
            expected[k, j, k + j] = t.scale
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("t", TRANSFORMS.values(), ids=str)
def test_transformed_operands_fit_16_bits(t: Winograd) -> None:
    """The greatest of each, found by trying both ends of the range for every input that a product meets."""
    rows = np.array(t.inputs)
    both = np.einsum("ai,bj->abij", rows, rows).reshape(t.points**2, -1)
    assert np.where(both > 0, both * 255, 0).sum(axis=1).max() == t.greatest_input * 255 <= 32767
    packed = pack_winograd(t, np.full((16, 3, 3, 2), 127, np.int8), 4).view(np.int16)
    taps = np.abs(np.array(t.taps)).sum(axis=1).max()
    assert packed.max() == 127 * taps**2 == 127 * t.greatest_weight <= 32767
    assert pack_winograd(t, np.zeros((33, 3, 3, 5), np.int8), 8).shape == packed_shape(t, 3, 8)


SHAPES = [
    C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME),
    C(2, 9, 11, 20, 33, (3, 3), (1, 1), SAME, residual=True),
    C(1, 13, 6, 33, 40, (3, 3), (1, 1), SAME, activation="relu"),
    C(1, 7, 7, 12, 24, (3, 3), (1, 1), (0, 0, 0, 0)),
    C(3, 2, 3, 17, 12, (3, 3), (1, 1), SAME),
    C(1, 4, 4, 24, 30, (3, 3), (1, 1), SAME),
    C(1, 6, 17, 70, 17, (3, 3), (1, 1), (2, 0, 1, 2), residual=True, activation="clip:0.0:3.0"),
    C(1, 10, 9, 16, 20, (3, 3), (1, 1), SAME, activation="hard_swish"),
]


QUICK = [(1, 1), (4, 1), (6, 1), (7, 1), (3, 3), (4, 3)]
"""Places of shapes, and threads: batches, odd channels, borders of all kinds and none, tables, floats out."""


@avx2
@pytest.mark.parametrize(
    ("w", "threads"),
    [
        pytest.param(w, threads, id=f"{w.key}-{threads}", marks=[] if (i, threads) in QUICK else [SLOW])
        for threads in (1, 3)
        for i, w in enumerate(SHAPES)
    ],
)
def test_equals_reference(w: C, threads: int, rng: np.random.Generator) -> None:
    """Both sizes of tiles, whole maps and bands whose last one overlaps, bytes and floats, at all ends."""
    out_bits = 32 if w.activation == "none" and not w.residual else 8
    r = request(w, out_bits=out_bits, threads=threads)
    assert fitting(r)[0] == row()
    space = row().knob_space(r)
    for outputs in {k["outputs"] for k in space}:
        first = next(k for k in space if k["outputs"] == outputs)
        for band in (1, 2, 99)[:: 2 if threads > 1 else 1]:
            check(Kernel(r, row(), {**first, "band": band}), rng, (None, 1, -1))


@avx2
@pytest.mark.parametrize("precision", slow_but(["w8a7", "w7a8", "w4a8", "w2a8", "w3a3"], "w2a8", "w3a3"))
def test_every_candidate_at_fewer_bits(precision: str, rng: np.random.Generator) -> None:
    r = request(C(1, 9, 10, 48, 50, (3, 3), (1, 1), SAME, residual=True), precision, threads=2)
    space = row().knob_space(r)
    assert 3 <= len(space) <= 6
    for knobs in space:
        check(Kernel(r, row(), knobs), rng, (None, 1))


@avx2
@pytest.mark.parametrize("outputs", TRANSFORMS)
def test_longest_sums(outputs: int, rng: np.random.Generator) -> None:
    """So many channels that four times an output nearly fills int32; a few more have no such kernel."""
    most = row().max_terms(request(C(1, 4, 4, 16, 16, (3, 3), (1, 1), SAME)))
    assert most is not None
    channels = most // 9
    r = request(C(1, 4, 4, channels, 12, (3, 3), (1, 1), SAME), out_bits=32)
    assert row().fits(r)
    assert not row().fits(request(C(1, 4, 4, channels + 1, 12, (3, 3), (1, 1), SAME)))
    knobs = {**row().knob_space(r)[0], "outputs": outputs}
    check(Kernel(r, row(), knobs), rng, (1, -1))


@pytest.mark.parametrize(
    ("w", "precision", "served"),
    [
        (C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME), "w8a8", True),
        (C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME), "w2a4", True),
        (C(1, 8, 8, 144, 16, (3, 3), (1, 1), SAME), "w2a4", False),
        (C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME), "w1a4", False),
        (C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME), "w1a8", True),
        (C(1, 8, 8, 3, 16, (3, 3), (1, 1), SAME), "w8a8", False),
        (C(1, 8, 8, 16, 16, (3, 3), (2, 2), SAME), "w8a8", False),
        (C(1, 8, 8, 16, 16, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)), "w8a8", False),
        (C(1, 8, 8, 16, 16, (5, 5), (1, 1), (2, 2, 2, 2)), "w8a8", False),
        (C(1, 8, 8, 32, 32, (3, 3), (1, 1), SAME, (1, 1), 2), "w8a8", False),
        (C(1, 1, 8, 16, 16, (3, 3), (1, 1), SAME), "w8a8", False),
    ],
)
def test_what_it_serves(w: C, precision: str, served: bool) -> None:
    assert row().fits(request(w, precision)) is served


def test_fewer_bits_are_the_same_code() -> None:
    """So that they are no candidates: they would only lose accuracy."""
    w = C(1, 8, 8, 64, 64, (3, 3), (1, 1), SAME)
    assert {row().variant(request(w, p)) for p in ("w8a8", "w7a8", "w4a8", "w2a8")} == {None}
    kernels = [Kernel(request(w, p), row(), {"outputs": 4, "band": 1, "columns": 6}) for p in ("w8a8", "w4a8")]
    assert kernels[0].work == kernels[1].work
    assert kernels[0].work.products == 4 * 36 * (64 // 2) * (64 // 8)
