"""SCALE-Sim as a simulator: how bits become words, what is made of its traffic, and its own arithmetic."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from typing import Any

import pytest

from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.simulators import scalesim
from tvm_mpq.simulators.scalesim import MACHINES, SystolicArray, packed_values
from tvm_mpq.simulators.simulator import Operation

PLENTY, LITTLE, EYERISS = MACHINES

installed = pytest.mark.skipif(importlib.util.find_spec("scalesim") is None, reason="the extra `sim` is not installed")

POINTWISE = Conv2dWorkload(1, 14, 14, 64, 64, (1, 1))
DEPTHWISE = Conv2dWorkload(1, 28, 28, 16, 16, (3, 3), padding=(1, 1, 1, 1), groups=16)


def cycles(machine: SystolicArray, workload: Conv2dWorkload, weight_bits: int, activation_bits: int) -> float:
    (found,) = machine.simulate([Operation(workload, weight_bits, activation_bits)])
    assert found.energy_mj is None and not machine.gives_energy
    return found.latency_us * machine.clock_mhz


@pytest.mark.parametrize(
    "bits, packed", [((8, 8), 1), ((5, 2), 1), ((2, 5), 1), ((4, 4), 2), ((3, 1), 2), ((2, 2), 4), ((1, 1), 4)]
)
def test_values_share_a_word_as_the_wider_operand_allows(bits: tuple[int, int], packed: int) -> None:
    assert packed_values(Operation(POINTWISE, *bits)) == packed


def test_layers_and_memories_are_asked_for_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes back is carried at the operands' bits, partial sums only where they do not fit."""
    asked: list[dict[str, Any]] = []
    answer = {"cycles": 100, "input_words": 1000, "weight_words": 300}

    def answers(worker: str, config: dict[str, Any], jobs: list[dict[str, Any]]) -> Any:
        asked.extend(jobs)
        return (answer for _ in jobs)

    monkeypatch.setattr(scalesim, "answers", answers)
    outputs = 14 * 14 * 64
    roomy = dataclasses.replace(LITTLE, output_kb=1024)
    assert cycles(LITTLE, POINTWISE, 4, 2) == pytest.approx((2 * 1000 * 2 + 2 * 300 * 4 + outputs * 2) / 8)
    assert asked[-1] == {
        "array": [32, 32],
        "dataflow": "ws",
        "words": [8 * 8192 // 4, 8 * 8192 // 8, 8 * 8192 // 2],
        "layer": [14, 14, 1, 1, 32, 64, 1, 1],
    }
    assert cycles(LITTLE, POINTWISE, 4, 2) == cycles(roomy, POINTWISE, 4, 2)  # 32 words are one pass: whole sums
    parts = math.ceil(14 * 14 * 32 * 4 / 8192)  # of 64 they are two; 8 kB hold the partial sums of a fourth
    assert cycles(LITTLE, POINTWISE, 8, 8) == pytest.approx((1000 + parts * 300 + outputs) * 8 / 8) and parts == 4
    assert cycles(roomy, POINTWISE, 8, 8) == pytest.approx((1000 + 300 + outputs) * 8 / 8)
    strided = Conv2dWorkload(1, 28, 28, 16, 16, (3, 3), (2, 2), (1, 1, 1, 1), (2, 2), groups=16)
    answer["cycles"] = 10**9
    assert cycles(PLENTY, strided, 8, 8) == pytest.approx(16 * 10**9)
    assert asked[-1]["layer"] == [2 * (strided.out_height - 1) + 3, 2 * (strided.out_width - 1) + 3, 3, 3, 1, 1, 2, 2]


@installed
@pytest.mark.parametrize("rows, columns, filters", [(8, 8, 8), (16, 8, 24), (32, 32, 64)])
def test_cycles_follow_the_published_formula(rows: int, columns: int, filters: int) -> None:
    """Samajdar et al. (ISPASS 2020): a fold of a weight-stationary array takes 2 rows + columns + outputs - 2."""
    array = SystolicArray("test", rows, columns, "ws", 1024, 1024, 1024, 10**9, 1.0)
    work = Conv2dWorkload(1, 6, 6, 16, filters, (1, 1))
    folds = math.ceil(16 / rows) * math.ceil(filters / columns)
    fold = 2 * rows + columns + 36 - 2
    assert cycles(array, work, 8, 8) == pytest.approx(folds * fold, abs=folds + 1)


@installed
def test_depthwise_layers_gain_by_fewer_bits_only_where_memory_is_little() -> None:
    assert cycles(PLENTY, DEPTHWISE, 2, 2) == cycles(PLENTY, DEPTHWISE, 8, 8)
    assert cycles(PLENTY, POINTWISE, 4, 4) < 0.75 * cycles(PLENTY, POINTWISE, 8, 8)
    assert cycles(LITTLE, DEPTHWISE, 8, 4) < 0.75 * cycles(LITTLE, DEPTHWISE, 8, 8)
    assert cycles(LITTLE, POINTWISE, 8, 8) > 2 * cycles(PLENTY, POINTWISE, 8, 8)


@installed
@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.machine)
@pytest.mark.parametrize("work", [POINTWISE, DEPTHWISE], ids=["pointwise", "depthwise"])
def test_fewer_bits_never_take_longer(machine: SystolicArray, work: Conv2dWorkload) -> None:
    found = [cycles(machine, work, bits, bits) for bits in (8, 4, 2)]
    assert found == sorted(found, reverse=True)


@installed
def test_digests_tell_machines_apart() -> None:
    assert len({m.digest for m in MACHINES}) == 3
    assert dataclasses.replace(PLENTY, machine="renamed").digest == PLENTY.digest
    assert dataclasses.replace(PLENTY, carried_bits=256).digest != PLENTY.digest
