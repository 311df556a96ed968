"""Weights rounded for a plan: what operators meet, all samples side by side, and that networks get nearer to fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from mpq_testing.lab import Lab
from mpq_testing.onnx_models import depthwise_and_shortcut
from tvm_mpq.calibrate import rounding
from tvm_mpq.calibrate.lockstep import Lockstep, peak_bytes
from tvm_mpq.calibrate.patches import choose_positions, patches
from tvm_mpq.calibrate.rounding import float_side, round_alone, round_plan
from tvm_mpq.calibrate.sensitivity import float_plan
from tvm_mpq.execute import network
from tvm_mpq.execute.interpreter import Sample
from tvm_mpq.numerics.conv import float_conv2d
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.lowering import StoredValue, lower
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload, Plan, Precision

WORKLOADS = [
    Conv2dWorkload(1, 7, 5, 6, 4, (3, 3), (2, 1), (1, 0, 2, 1)),
    Conv2dWorkload(2, 6, 6, 6, 9, (3, 2), dilation=(2, 1), padding=(2, 1, 2, 0), groups=3),
    Conv2dWorkload(1, 5, 5, 4, 8, (3, 3), padding=(1, 1, 1, 1), groups=4),
    Conv2dWorkload(1, 4, 3, 3, 5, (3, 3), padding=(2, 1, 1, 2), input_dilation=(2, 3)),
    Conv2dWorkload(1, 1, 9, 11, 3, (1, 1)),
]


@pytest.mark.parametrize("work", WORKLOADS, ids=lambda w: w.key)
def test_patches_times_weights_are_the_convolution(work: Conv2dWorkload, rng: np.random.Generator) -> None:
    x = rng.normal(0, 1, (work.batch, work.in_height, work.in_width, work.in_channels)).astype(np.float32)
    per_group = work.in_channels // work.groups
    weight = rng.normal(0, 1, (work.out_channels, *work.kernel, per_group)).astype(np.float32)
    positions = choose_positions(work, 20, rng)
    assert len(np.unique(positions, axis=0)) == len(positions)
    found = patches(work, [x, x], [positions[:3], positions[3:]])
    rows = weight.reshape(work.groups, work.out_channels // work.groups, -1)
    got = np.einsum("gpn,gon->pgo", found, rows).reshape(len(positions), -1)
    whole = float_conv2d(x, weight, np.zeros(work.out_channels, np.float32), work)
    np.testing.assert_allclose(got, whole[tuple(positions.T)], atol=1e-4)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("rounding")
    onnx.save(depthwise_and_shortcut(9, 37), str(folder / "net.onnx"))
    return Lab(folder / "net.onnx", folder / "kernels", samples=8)


def coarse(lab: Lab, default: str = "w4a8") -> Plan:
    """`default` where there are kernels for it, else w8a8."""
    return lab.plan("w8a8", {n.name: default for n in lab.graph.weighted() if default in n.candidates})


def rounded(lab: Lab, plan: Plan, samples: list[Sample] | None = None) -> WeightCodes:
    features = lab.prepared.features
    wide = float_side(lab.graph, plan, features, lab.samples if samples is None else samples)
    return round_plan(lab.graph, lab.interpreter, plan, features, wide)


def test_all_samples_side_by_side_give_what_each_gives_alone(lab: Lab) -> None:
    steps = lab.steps(coarse(lab))
    lab.interpreter.prepare(steps)
    walk = Lockstep(lab.graph, lab.interpreter, lab.samples, steps, "test")
    while walk.step is not None:
        walk.advance()
    out = StoredValue(lab.graph.outputs[0], FLOAT_BITS)
    for i, found in enumerate(walk.values(out)):
        np.testing.assert_array_equal(found, lab.interpret(coarse(lab), i)[0])
    assert not walk.holds(StoredValue(lab.graph.inputs[0], FLOAT_BITS)), "what nobody reads any more is let go"


def test_memory_bounds_the_samples_that_are_walked_over(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = coarse(lab)
    floats = lab.steps(float_plan(lab.graph, plan))
    sample = peak_bytes(lab.graph, floats)
    whole = sum(4 * np.prod(t.shape) for t in lab.graph.tensors.values())
    assert max(4 * np.prod(t.shape) for t in lab.graph.tensors.values()) < sample < whole
    codes = []
    for memory, samples in (
        (1 << 40, lab.samples),
        (4 * sample, lab.samples),
        (1 << 40, [lab.samples[0], lab.samples[-1]]),
    ):
        monkeypatch.setattr(rounding, "MEMORY_BYTES", memory)
        codes.append(rounded(lab, plan, samples).digest)
    assert codes[0] != codes[1] == codes[2]


def errors(lab: Lab, plan: Plan, codes: object) -> float:
    """Mean squared error of the first output to fp32, over all samples."""
    outputs = []
    for p, c in ((plan, codes), (float_plan(lab.graph, plan), None)):
        steps = lower(lab.graph, p, lab.prepared.features, c)  # type: ignore[arg-type]
        lab.interpreter.prepare(steps)
        runs = [lab.interpreter.run(steps, lab.interpreter.load(s), tag="errors") for s in lab.samples]
        outputs.append([lab.interpreter.outputs(values)[0] for values in runs])
    return float(np.mean([np.square(a - b).mean() for a, b in zip(*outputs, strict=True)]))


def test_a_network_gets_nearer_to_fp32_and_the_same_codes_every_time(lab: Lab) -> None:
    plan = coarse(lab, "w2a8")
    codes = rounded(lab, plan)
    assert {name for name, _ in codes} == set(lab.names)
    assert all(bits == plan.precision(name).weight_bits for name, bits in codes)
    assert errors(lab, plan, codes) < 0.6 * errors(lab, plan, None)
    again = rounded(lab, plan)
    assert again.digest == codes.digest


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_plans_that_share_the_float_side_get_the_codes_they_get_alone(
    lab: Lab, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tvm_mpq.calibrate.float_side.KEPT_BYTES", kept_bytes)
    plans = [coarse(lab), lab.plan("fp32", {lab.names[-1]: "w8a8"}), coarse(lab, "w2a8")]
    features = lab.prepared.features
    wide = float_side(lab.graph, plans[0], features, lab.samples)
    found = [round_plan(lab.graph, lab.interpreter, plan, features, wide).digest for plan in plans]
    assert found == [rounded(lab, plan).digest for plan in plans]


def test_float_operators_get_no_codes(lab: Lab) -> None:
    plan = lab.plan("fp32", {lab.names[-1]: "w8a8"})
    codes = rounded(lab, plan)
    assert list(codes) == [(lab.names[-1], 8)]


def test_each_operator_alone_at_each_precision(lab: Lab) -> None:
    wanted = [(name, Precision.parse(p)) for name in lab.names for p in ("w8a8", "w2a8", "fp32")]
    plan = lab.plan("fp32")
    wide = float_side(lab.graph, plan, lab.prepared.features, lab.samples)
    found = round_alone(lab.graph, lab.interpreter, plan, wide, wanted)
    assert set(found) == {(name, p) for name, p in wanted if not p.is_float}
    for (_, precision), weight in found.items():
        assert weight.bits == precision.weight_bits and weight.bias is not None


def test_built_libraries_compute_with_the_codes(lab: Lab, tmp_path: Path) -> None:
    plan = coarse(lab)
    codes = rounded(lab, plan)
    steps = lower(lab.graph, plan, lab.prepared.features, codes)
    lab.interpreter.prepare(steps)
    wanted = lab.interpreter.outputs(lab.interpreter.run(steps, lab.interpreter.load(lab.samples[0]), tag="codes"))
    mod = network.realize(lab.prepared, plan, codes)
    built = network.build(lab.prepared, plan, tmp_path / "model.so", mod)
    got = lab.run_library(built.path, tmp_path)
    np.testing.assert_array_equal(got[0], wanted[0])
    assert not np.array_equal(wanted[0], lab.interpret(plan)[0])
