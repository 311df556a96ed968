"""Arrays whose cycles follow the bits, worked out by hand and held against what was published."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.simulators.bitserial import MACHINES, BitArray
from tvm_mpq.simulators.machines import names, simulator_named, with_energy
from tvm_mpq.simulators.simulator import Operation, name_of

EDGE, CLOUD, FUSION = MACHINES
CONV = Conv2dWorkload(1, 16, 16, 64, 64, (3, 3), padding=(1, 1, 1, 1))
DEPTHWISE = Conv2dWorkload(1, 16, 16, 64, 64, (3, 3), padding=(1, 1, 1, 1), groups=64)
LINEAR = Conv2dWorkload(1, 1, 1, 1280, 1000, (1, 1))
BITS = list(itertools.product(range(1, 9), repeat=2))


def cycles(array: BitArray, workload: Conv2dWorkload, weight_bits: int, activation_bits: int) -> float:
    (cost,) = array.simulate([Operation(workload, weight_bits, activation_bits)])
    assert cost.energy_mj is None
    return cost.latency_us * array.clock_mhz


def plenty(array: BitArray) -> BitArray:
    return dataclasses.replace(array, carried_bytes=1e9)


def test_the_published_peak() -> None:
    assert pytest.approx(6.5, rel=0.01) == EDGE.peak_tops
    assert 16 * EDGE.peak_tops == CLOUD.peak_tops


@pytest.mark.parametrize("weight_bits, activation_bits", BITS)
def test_bits_are_taken_one_by_one(weight_bits: int, activation_bits: int) -> None:
    """64 channels in 8 parts, 576 terms in 3, 256 positions in 32."""
    assert cycles(plenty(EDGE), CONV, weight_bits, activation_bits) == 8 * 3 * 32 * weight_bits * activation_bits


@pytest.mark.parametrize("pair, products", {(8, 8): 1, (4, 4): 4, (2, 8): 4, (8, 2): 4, (2, 2): 16, (4, 8): 2}.items())
def test_units_are_split_as_published(pair: tuple[int, int], products: int) -> None:
    deep = dataclasses.replace(CONV, in_channels=1024)  # 9,216 terms: whole passes at all bits
    assert cycles(plenty(FUSION), deep, *pair) == 4 * (9216 // (32 * products)) * 256


def test_bits_between_are_widened_to_a_units_own() -> None:
    for weight_bits, activation_bits in BITS:
        wide = [next(b for b in (2, 4, 8) if b >= bits) for bits in (weight_bits, activation_bits)]
        found = cycles(plenty(FUSION), CONV, weight_bits, activation_bits)
        assert found == cycles(plenty(FUSION), CONV, *wide)


def test_one_channel_a_group_leaves_the_array_idle() -> None:
    """A depthwise layer has a 64th of the products, and takes far more than a 64th of the time."""
    assert cycles(plenty(EDGE), DEPTHWISE, 8, 8) == 64 * 32 * 64
    assert cycles(plenty(EDGE), CONV, 8, 8) / 64 < cycles(plenty(EDGE), DEPTHWISE, 8, 8)


def test_memory_bound_layers_take_what_carrying_takes() -> None:
    starved = dataclasses.replace(EDGE, carried_bytes=1.0)
    assert cycles(starved, LINEAR, 4, 8) == 1280 + 1000 + 1280 * 1000 / 2
    assert starved.moved(800).latency_us * starved.clock_mhz == 100


def test_they_are_sources_by_name() -> None:
    assert [name_of(m) for m in MACHINES] == ["bismo:edge", "bismo:cloud", "bitfusion"]
    assert {name_of(m) for m in MACHINES} <= set(names()) and not {name_of(m) for m in MACHINES} & set(with_energy())
    assert simulator_named("bismo:edge") is EDGE
    assert len({m.digest for m in MACHINES}) == 3
