"""Depthwise convolutions on AVX2 by products of bytes: what 16 bits hold, how weights are split, exact numbers."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from mpq_testing import low_bit
from tvm_mpq.kernels import registry
from tvm_mpq.kernels.families import dense  # noqa: F401  registers the rows
from tvm_mpq.kernels.machines import avx2_depthwise_bytes
from tvm_mpq.kernels.machines.avx2_depthwise_bytes import ByteTapsFrame
from tvm_mpq.kernels.packing.tap_sums import HALVES, TapSums, group_starts, pack_taps, tap_sums
from tvm_mpq.kernels.registry import Kernel, Request, fitting
from tvm_mpq.kernels.shapes import geometry
from tvm_mpq.numerics.affine import unsigned_range, weight_range
from tvm_mpq.schema import Conv2dWorkload, Precision

C = Conv2dWorkload
SAME, NAME = (1, 1, 1, 1), "qu8_qs8_s16_dwconv2d__avx2"
avx2 = pytest.mark.isa("avx2", "fma")
check = functools.partial(low_bit.check, mcpu="haswell")


def request(w: C, precision: str, out_bits: int = 8, threads: int = 1) -> Request:
    return Request(w, Precision.parse(precision), out_bits, frozenset({"avx2"}), threads)


def square(kernel: int, stride: int = 1, size: int = 14, channels: int = 32) -> C:
    p = kernel // 2
    shape = (1, size, size, channels, channels, (kernel, kernel), (stride, stride), (p, p, p, p), (1, 1), channels)
    return C(*shape)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (4, 2), (1, 5), (7, 7)], ids=str)
def test_no_sum_leaves_16_bits(kernel: tuple[int, int]) -> None:
    """Neither do two products that one instruction adds, which would saturate."""
    w = C(1, 16, 16, 32, 32, kernel, (1, 1), (0, 0, 0, 0), (1, 1), 32)
    for weight_bits, activation_bits in itertools.product(range(1, 9), range(1, 9)):
        way = tap_sums(request(w, f"w{weight_bits}a{activation_bits}"))
        if way is None:
            assert weight_bits + activation_bits > 11 and kernel == (7, 7)
            continue
        taps = [0] * way.count
        for number, (_, second) in zip(way.sums, way.pairs, strict=True):
            taps[number] += 1 if second is None else 2
        assert sum(taps) == kernel[0] * kernel[1] and min(taps) > 0
        greatest = weight_range(weight_bits)[1] if way.planes == 1 else 8
        assert max(taps) * unsigned_range(activation_bits)[1] * greatest <= 32767
        assert len(way.factors) == way.planes * way.count <= 4


def test_planes_and_sums() -> None:
    assert tap_sums(request(square(3), "w4a8")) == TapSums(3, 3, 1, (0, 0, 1, 1, 1))
    assert tap_sums(request(square(3), "w5a8")) == TapSums(3, 3, 1, (0, 0, 0, 0, 1))
    assert tap_sums(request(square(3), "w8a8")) == TapSums(3, 3, 2, (0,) * 5)
    assert tap_sums(request(square(3), "w8a4")) == TapSums(3, 3, 1, (0, 0, 1, 1, 1))
    assert tap_sums(request(square(7), "w8a8")) is None, "49 taps want eight sums"


@pytest.mark.parametrize("channels", [32, 40, 72, 96])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_planes_are_the_weights(channels: int, bits: int, rng: np.random.Generator) -> None:
    """Every tap of every channel, at both ends of its range; a last group overlaps the one before it."""
    way = tap_sums(request(square(3, channels=channels), f"w{bits}a8"))
    assert way is not None
    top = weight_range(bits)[1]
    weight = rng.integers(-top, top + 1, (channels, 3, 3, 1)).astype(np.int8)
    weight[0], weight[1] = top, -top
    packed = pack_taps(weight, way)
    starts = group_starts(channels)
    assert packed.shape == (len(starts), 5, way.planes, 2, 16, 2) and packed.dtype == np.int8
    assert way.planes == 1 or np.abs(packed).max() <= 8
    whole = sum(packed[:, :, p].astype(np.int32) * worth for p, worth in enumerate((1, 16)[: way.planes]))
    for start, group in zip(starts, whole, strict=True):
        for pair, taps in zip(group, way.pairs, strict=True):
            for half, order in zip(pair, HALVES, strict=True):
                for place, tap in enumerate(taps):
                    known = [tap is not None and start + c < channels for c in order]
                    row, column = tap or (0, 0)
                    there = [weight[start + c, row, column, 0] if k else 0 for c, k in zip(order, known, strict=True)]
                    assert half[:, place].tolist() == there


CASES = [
    (C(1, 7, 9, 32, 32, (3, 3), (1, 1), SAME, (1, 1), 32), "w8a8"),
    (C(2, 9, 10, 40, 40, (3, 3), (2, 2), SAME, (1, 1), 40, residual=True), "w8a8"),
    (C(2, 9, 10, 40, 40, (3, 3), (2, 2), SAME, (1, 1), 40, residual=True), "w4a8"),
    (C(1, 9, 21, 72, 72, (3, 3), (2, 1), (0, 0, 1, 1), (1, 1), 72, activation="hard_swish"), "w6a8"),
    (C(1, 11, 9, 33, 33, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 33, activation="relu"), "w4a8"),
    (C(1, 11, 9, 96, 96, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1), 96, activation="clip:0.0:6.0"), "w5a8"),
    (C(1, 12, 12, 64, 64, (7, 7), (2, 1), (3, 3, 3, 3), (1, 1), 64), "w2a4"),
    (C(1, 9, 11, 50, 50, (4, 2), (1, 1), (1, 0, 2, 1), (2, 1), 50), "w5a8"),
    (C(1, 9, 18, 48, 48, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 48), "w8a4"),
    (C(1, 6, 40, 32, 32, (1, 5), (1, 1), (0, 2, 0, 2), (1, 1), 32), "w4a8"),
    (C(1, 5, 5, 32, 32, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 32), "w8a8"),
]


@avx2
@pytest.mark.parametrize(("w", "precision"), CASES, ids=lambda value: getattr(value, "key", value))
def test_equals_the_definition(w: C, precision: str, rng: np.random.Generator) -> None:
    """Odd and even kernels, strides, dilation, lone taps, overlapping groups; at both ends of the ranges."""
    r = request(w, precision)
    row = fitting(r)[0]
    assert row.name == NAME
    check(Kernel(r, row, row.knob_space(r)[-1]), rng, (None, 1, -1))


@avx2
@pytest.mark.parametrize(("threads", "band_bytes", "rows"), [(1, 1, 1), (1, 2700, 3), (3, 2700, 3), (2, 1 << 16, 5)])
def test_bands_and_threads(
    threads: int, band_bytes: int, rows: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few rows fit the cache the last band is shorter; threads have bands of their own, some of them none."""
    monkeypatch.setattr(avx2_depthwise_bytes, "_BAND_BYTES", band_bytes)
    monkeypatch.setattr(geometry, "PARALLEL_MACS", 0)
    registry._built.cache_clear()  # what is built depends on both
    w = C(1, 5, 9, 48, 48, (3, 3), (1, 1), SAME, (1, 1), 48)
    r = request(w, "w4a8", threads=threads)
    row = fitting(r)[0]
    frame = ByteTapsFrame(r, row.knob_space(r)[-1])
    assert (frame.threads, frame.band, frame.columns) == (threads, rows, 3)
    check(Kernel(r, row, row.knob_space(r)[-1]), rng)
    registry._built.cache_clear()


def test_where_it_is_the_default() -> None:
    """Two planes of weights only gain for few taps at stride 2 or on small maps; floats and 16 channels have others."""
    first = {
        "w4a8": (square(3, 1, 56), square(5, 1, 28), square(3, 2)),
        "w8a8": (square(3, 1, 14), square(3, 2, 56)),
    }
    for precision, shapes in first.items():
        assert {fitting(request(w, precision))[0].name for w in shapes} == {NAME}
    others = [(square(3, 1, 56), "w8a8", 8), (square(5), "w8a8", 8), (square(3, channels=16), "w4a8", 8)]
    for w, precision, out_bits in [*others, (square(3), "w4a8", 32)]:
        assert fitting(request(w, precision, out_bits))[0].name == "qu8_qs8_s32_dwconv2d__avx2"
