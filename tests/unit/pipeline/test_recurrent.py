"""Recurrent layers among the operators of a job: offered, calibrated, judged, built."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpq_testing.lab import Lab
from tvm_mpq.calibrate.sensitivity import measure_losses, trials
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.numerics.affine import dequantize
from tvm_mpq.passes.lowering import KernelStep, lower
from tvm_mpq.pipeline.problem import Space, build_problem
from tvm_mpq.schema import FLOAT_BITS, Plan, TensorQuant
from tvm_mpq.select.evaluate import cost

STEPS, BATCH, INPUTS, HIDDEN = 6, 2, 5, 17


def two_layers() -> onnx.ModelProto:
    """An LSTM in both directions, whose last c is a result, then a GRU without biases from a state that is given."""
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray[Any, Any]] = {}

    def draw(name: str, *shape: int) -> str:
        weights[name] = rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
        return name

    lstm = [draw("w0", 2, 4 * HIDDEN, INPUTS), draw("r0", 2, 4 * HIDDEN, HIDDEN), draw("b0", 2, 8 * HIDDEN)]
    gru = [draw("w1", 1, 3 * HIDDEN, 2 * HIDDEN), draw("r1", 1, 3 * HIDDEN, HIDDEN)]
    weights["shape"] = np.array([STEPS, BATCH, 2 * HIDDEN])
    nodes = [
        helper.make_node(
            "LSTM", ["x", *lstm], ["y0", "", "c"], name="lstm", hidden_size=HIDDEN, direction="bidirectional"
        ),
        helper.make_node("Transpose", ["y0"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "shape"], ["joined"]),
        helper.make_node(
            "GRU", ["joined", *gru, "", "", "h"], ["y1"], name="gru", hidden_size=HIDDEN, direction="reverse"
        ),
    ]
    shapes = {"x": [STEPS, BATCH, INPUTS], "h": [1, BATCH, HIDDEN], "y1": None, "c": None}
    x, h, *results = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", [x, h], results, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recurrent") / "net.onnx"
    onnx.save(two_layers(), str(path))
    return str(path)


@pytest.fixture(scope="module")
def lab(model: str, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(model, tmp_path_factory.mktemp("kernels"), samples=2, batch=None)


def cells(lab: Lab) -> dict[str, str]:
    """Names of the recurrent layers by their kind of cell."""
    return {node.workload.cell: node.name for node in lab.graph.nodes if node.kind == "recurrent"}


def test_it_is_a_choice_like_any_other(model: str) -> None:
    """Floats in and out at either precision, and a request for each."""
    prepared = prepare(model, target="haswell", batch=None)
    space = Space(prepared.graph, prepared.features, 1)
    for node in prepared.graph.nodes:
        if node.kind == "recurrent":
            assert node.candidates == ("fp32", "w8a8")
            assert {n: set(emitted) for n, emitted in space.options(node).items()} == {"fp32": {32}, "w8a8": {32}}


def test_a_solution_reads_and_leaves_floats(model: str) -> None:
    """Chosen at 8 bits, a layer asks for no conversion of what it reads."""
    prepared = prepare(model, target="haswell", batch=None)

    class Free:
        def size_bytes(self, request: object) -> int:
            return 1

        def energy_mj(self, request: object) -> None:
            return None

    space = Space(prepared.graph, prepared.features, 1)
    problem = build_problem(space, lambda request: 1.0, Free(), {}, fixed_us=0.0, call_us=0.0)
    names = [n.name for n in prepared.graph.nodes if n.kind == "recurrent"]
    precisions = {n.name: "w8a8" if n.name in names else "fp32" for n in prepared.graph.quantizable()}
    solution = cost(problem, precisions)
    assert set(solution.formats.values()) == {FLOAT_BITS}
    assert solution.latency_us == cost(problem, dict.fromkeys(precisions, "fp32")).latency_us
    assert [solution.choices[name] for name in names] == ["w8a8", "w8a8"]


def test_a_plan_that_says_nothing_of_it_leaves_it_float(model: str) -> None:
    prepared = prepare(model, target="haswell", batch=None)
    operators = {n.name: "fp32" for n in prepared.graph.weighted()}
    steps = lower(prepared.graph, Plan("haswell", prepared.tvm_target_attrs, operators, {}), prepared.features)
    families = [
        s.kernel.family.name for s in steps if isinstance(s, KernelStep) and "recurrent" in s.kernel.family.name
    ]
    assert families == ["f32_recurrent__generic"] * 2


@pytest.mark.isa("avx2")
def test_ranges_are_those_of_h(lab: Lab) -> None:
    """Of all steps and of the state that is given, not of c, which is among the results of the layer."""
    values = lab.values(lab.plan("fp32"))
    assert {name for name in lab.ranges if name.endswith(":state")} == {f"{n}:state" for n in cells(lab).values()}
    (range_of_h,) = (q for q in lab.ranges[f"{cells(lab)['lstm']}:state"] if q.bits == 8)
    out = next(x for v, x in values.items() if v.tensor == cells(lab)["lstm"])
    assert range_of_h.scale * 255 < 2 < np.abs(out[STEPS:]).max() * 4
    given = np.concatenate([sample["h"] for sample in lab.samples])
    (quant,) = (q for q in lab.ranges[f"{cells(lab)['gru']}:state"] if q.bits == 8)
    low, high = (dequantize(np.array(end), quant) for end in (0, 255))
    assert np.abs(given).max() > 1  # beyond what a GRU's later states can be
    assert low <= given.min() + quant.scale and given.max() - quant.scale <= high


@pytest.mark.isa("avx2")
def test_losses_are_its_own(lab: Lab) -> None:
    plan = lab.plan("fp32")
    todo = [t for t in trials(lab.graph, plan, lab.prepared.features) if t.operator in cells(lab).values()]
    assert {t.operator for t in todo} == set(cells(lab).values())
    losses = measure_losses(lab.interpreter, lab.steps(plan), todo, lab.samples, None)
    assert all(0 < loss.mse < 1e-2 for loss in losses.values())


@pytest.mark.isa("avx2")
def test_library_interpreter_and_definition_agree(lab: Lab, tmp_path: Path) -> None:
    plan = lab.plan("w8a8")
    steps = [s for s in lab.steps(plan) if isinstance(s, KernelStep) and s.node in cells(lab).values()]
    assert [str(s.kernel.request.precision) for s in steps] == ["w8a8", "w8a8"]
    want = lab.define(plan)
    for found in (lab.interpret(plan), lab.run_built([plan], tmp_path)[0]):
        for got, expected in zip(found, want, strict=True):
            np.testing.assert_array_equal(got, expected)
    for got, exact in zip(want, lab.interpret(lab.plan("fp32")), strict=True):
        assert 0 < np.linalg.norm(got - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.isa("avx2")
def test_another_range_of_h_gives_other_numbers(lab: Lab) -> None:
    """The interpreter keeps packed constants, by all that they are made of."""
    plan = lab.plan("fp32", dict.fromkeys(cells(lab).values(), "w8a8"))
    before = lab.interpret(plan)[0]
    narrow = {f"{name}:state": [TensorQuant(8, 0.002, 128)] for name in cells(lab).values()}
    after = lab.interpret(dataclasses.replace(plan, tensors={**plan.tensors, **narrow}))[0]
    assert np.abs(before - after).max() > 0.01
