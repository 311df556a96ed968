"""ZigZag as a simulator: what it is asked, what its shipped results are, and that bits reach it."""

from __future__ import annotations

import importlib.util

import pytest

from tvm_mpq.errors import MeasurementError, MissingDependencyError
from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.simulators import zigzag
from tvm_mpq.simulators.machines import simulator_named
from tvm_mpq.simulators.simulator import Operation, SimulatedCost
from tvm_mpq.simulators.zigzag import MACHINES, ZigzagAccelerator, layer_of

EYERISS, EDGE, CLOUD = MACHINES

installed = pytest.mark.skipif(importlib.util.find_spec("zigzag") is None, reason="the extra `sim` is not installed")

POINTWISE = Conv2dWorkload(1, 8, 8, 64, 64, (1, 1))
DEPTHWISE = Conv2dWorkload(1, 8, 8, 32, 32, (3, 3), padding=(1, 1, 1, 1), groups=32)


def cost(machine: ZigzagAccelerator, workload: Conv2dWorkload, weight_bits: int, activation_bits: int) -> SimulatedCost:
    (found,) = machine.simulate([Operation(workload, weight_bits, activation_bits)])
    return found


def test_a_layer_in_its_words() -> None:
    work = Conv2dWorkload(2, 9, 7, 6, 12, (3, 5), (2, 1), (1, 2, 0, 3), (1, 2), groups=3)
    layer = layer_of(Operation(work, 4, 6))
    sizes = dict(zip(layer["loop_dims"], layer["loop_sizes"], strict=True))
    assert sizes == {"B": 2, "K": 4, "G": 3, "OX": 4, "OY": 4, "C": 2, "FX": 5, "FY": 3}
    assert layer["dimension_relations"] == ["ix=1*ox+2*fx", "iy=2*oy+1*fy"]
    assert (layer["pr_loop_sizes"], layer["padding"]) == ([7, 9], [[2, 3], [1, 0]])
    assert layer["operand_precision"] == {"W": 4, "I": 6, "O": 16, "O_final": 6}


def test_a_source_without_its_tool_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r"'zigzag:tpu_like' needs the package zigzag-dse: .*tvm-mpq\[sim\]"
    ):
        simulator_named("zigzag:tpu_like")
    with pytest.raises(MissingDependencyError, match=r"'scalesim:systolic' needs the package scalesim: "):
        simulator_named("scalesim:systolic")
    assert simulator_named("mpic") is not None


RESNET18_SOME = {
    # Layers of ResNet-18 whose costs the package's own run of its resnet18.onnx adds up to what its tests expect.
    (64, 128, 28, 1, 2): (16432105.6, 18879.0),
    (128, 256, 14, 1, 2): (11459105.088, 10431.0),
    (256, 512, 7, 1, 2): (16507176.352, 19583.0),
}


@installed
@pytest.mark.parametrize("layer", RESNET18_SOME)
def test_layers_of_the_shipped_example(layer: tuple[int, int, int, int, int]) -> None:
    """The shipped test expects 1871436380.656 pJ and 3865041 cycles of ResNet-18 on `tpu_like`: these are shares."""
    inputs, outputs, size, kernel, stride = layer
    work = Conv2dWorkload(1, size * stride, size * stride, inputs, outputs, (kernel, kernel), (stride, stride))
    found = cost(CLOUD, work, 8, 8)
    picojoules, cycles = RESNET18_SOME[layer]
    assert found.latency_us * CLOUD.clock_mhz == cycles
    assert found.energy_mj == pytest.approx(picojoules * 1e-9, rel=1e-9)


@installed
@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.machine)
def test_fewer_bits_take_less_energy_and_never_more_time(machine: ZigzagAccelerator) -> None:
    for work in (POINTWISE, DEPTHWISE):
        eight, four, two = (cost(machine, work, bits, bits) for bits in (8, 4, 2))
        assert eight.energy_mj is not None and four.energy_mj is not None and two.energy_mj is not None
        assert two.energy_mj < four.energy_mj < eight.energy_mj
        assert 0 < two.latency_us <= four.latency_us <= eight.latency_us


@installed
def test_passes_go_through_the_dram_of_the_hardware_file() -> None:
    found = CLOUD.moved(64 * 700)
    assert found.latency_us == pytest.approx(1.0)
    assert found.energy_mj == pytest.approx(700 * 725 * 1e-9)


@installed
def test_digests_tell_machines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({m.digest for m in MACHINES}) == 3
    before = ZigzagAccelerator("tpu_like", "tpu_like", 700.0).digest
    assert before == CLOUD.digest
    monkeypatch.setattr(zigzag, "PARTIAL_SUM_BITS", 24)
    assert ZigzagAccelerator("tpu_like", "tpu_like", 700.0).digest != before


@installed
def test_what_the_tool_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial sums of 32 bits do not fit the register that holds 16, as the package's own tests say."""
    monkeypatch.setattr(zigzag, "PARTIAL_SUM_BITS", 32)
    with pytest.raises(MeasurementError, match=r"zigzag_worker failed on .*NoValidLoopOrdering"):
        cost(CLOUD, POINTWISE, 8, 8)
