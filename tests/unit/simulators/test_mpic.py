"""The microcontroller's arithmetic, worked out by hand and by its limits."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.simulators.mpic import MACHINES, PUBLISHED, Microcontroller, _tilings
from tvm_mpq.simulators.simulator import Operation

ONE, EIGHT, WIDE_ONLY, _ = MACHINES

SMALL = Conv2dWorkload(1, 8, 8, 32, 32, (3, 3), padding=(1, 1, 1, 1))  # everything fits at once
LARGE = Conv2dWorkload(1, 56, 56, 64, 64, (3, 3), padding=(1, 1, 1, 1))
DEPTHWISE = Conv2dWorkload(1, 57, 57, 96, 96, (3, 3), (2, 2), (1, 1, 1, 1), groups=96)
LINEAR = Conv2dWorkload(1, 1, 1, 1280, 1000, (1, 1))
EVERY = (SMALL, LARGE, DEPTHWISE, LINEAR)


def cycles(core: Microcontroller, workload: Conv2dWorkload, weight_bits: int, activation_bits: int) -> float:
    (cost,) = core.simulate([Operation(workload, weight_bits, activation_bits)])
    assert cost.energy_mj == pytest.approx(cost.latency_us * core.cores * core.power_mw * 1e-6)
    return cost.latency_us * core.clock_mhz


@pytest.mark.parametrize("bits", PUBLISHED)
def test_computing_takes_the_published_rates(bits: tuple[int, int]) -> None:
    """Of a convolution whose memory is hidden; the first operands and the last results are what is not."""
    activation_bits, weight_bits = bits
    computing = LARGE.macs / PUBLISHED[bits]
    assert computing < cycles(ONE, LARGE, weight_bits, activation_bits) < 1.003 * computing


def test_an_operator_that_fits_at_once_is_carried_computed_and_carried() -> None:
    """No tile is smaller than the best; the most it can take is all of one after the other."""
    operands = (8 * 8 * 32 + SMALL.weight_count + 8 * 8 * 32) * 8 / 8
    least = max(SMALL.macs / 2.1, operands / 8)
    assert least < cycles(ONE, SMALL, 8, 8) <= SMALL.macs / 2.1 + operands / 8


@pytest.mark.parametrize("weight_bits, activation_bits", list(itertools.product(range(1, 9), repeat=2)))
def test_bits_between_are_widened(weight_bits: int, activation_bits: int) -> None:
    wide = [next(b for b in (2, 4, 8) if b >= bits) for bits in (weight_bits, activation_bits)]
    assert cycles(ONE, DEPTHWISE, weight_bits, activation_bits) == cycles(ONE, DEPTHWISE, *wide)


def test_a_core_without_instructions_for_few_bits_pays_for_unpacking() -> None:
    """It computes at 8 bits: few bits help where memory is the limit, and nowhere else."""
    assert cycles(WIDE_ONLY, LARGE, 8, 8) == cycles(ONE, LARGE, 8, 8)
    for workload in (LARGE, DEPTHWISE):
        assert all(cycles(WIDE_ONLY, workload, w, 8) > cycles(WIDE_ONLY, workload, 8, 8) for w in (2, 4))
    unpacking = 1.25 * LINEAR.weight_count
    assert cycles(WIDE_ONLY, LINEAR, 4, 8) == pytest.approx(LINEAR.macs / 2.1 + unpacking, rel=0.01)
    starved = dataclasses.replace(WIDE_ONLY, cores=64)
    assert cycles(starved, LINEAR, 4, 8) < 0.52 * cycles(starved, LINEAR, 8, 8)


def test_eight_cores_share_computing_and_not_memory() -> None:
    assert cycles(EIGHT, LARGE, 8, 8) == pytest.approx(cycles(ONE, LARGE, 8, 8) / 8, rel=0.01)
    carried = LINEAR.weight_count / 8
    assert cycles(EIGHT, LINEAR, 8, 8) == pytest.approx(carried, rel=0.01)
    assert cycles(EIGHT, LINEAR, 4, 8) == pytest.approx(carried / 2, rel=0.02)


@pytest.mark.parametrize("workload", EVERY)
@pytest.mark.parametrize("room_bytes", [1, 2048, 32768, 1e9])
def test_tilings_carry_every_operand_once_at_least(workload: Conv2dWorkload, room_bytes: float) -> None:
    w = workload
    used_rows = min((w.out_height - 1) * w.stride[0] + w.kernel[0], w.in_height)
    read = used_rows * min((w.out_width - 1) * w.stride[1] + w.kernel[1], w.in_width) * w.in_channels
    outputs = w.out_height * w.out_width * w.out_channels
    found = list(_tilings(workload, 8, 4, room_bytes))
    for tiling in found:
        assert tiling.inputs >= read and tiling.weights >= w.weight_count
        assert tiling.carried_bytes == pytest.approx(tiling.inputs + outputs + tiling.weights / 2)
        assert tiling.end_bytes <= max(room_bytes, *(t.end_bytes for t in _tilings(workload, 8, 4, 0)))
    if room_bytes == 1e9:  # the whole operator is one tile
        assert min(t.carried_bytes for t in found) == pytest.approx(read + outputs + w.weight_count / 2)


def test_passes_are_as_fast_as_cores_and_memory() -> None:
    assert ONE.moved(8000).latency_us == pytest.approx(1000 / ONE.clock_mhz)
    assert EIGHT.moved(8000).latency_us == pytest.approx(125 / EIGHT.clock_mhz)


def test_whatever_changes_a_cost_changes_the_digest() -> None:
    digests = {core.digest for core in MACHINES}
    digests |= {dataclasses.replace(ONE, **{name: value}).digest for name, value in {
        "inner_bytes": 1024, "carried_bytes": 4.0, "clock_mhz": 100.0, "power_mw": 1.0,
    }.items()}  # fmt: skip
    assert len(digests) == len(MACHINES) + 4
    assert Microcontroller("renamed").digest == ONE.digest
