"""Attention among the operators of a job: offered, priced, judged, built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm

from mpq_testing.onnx_models import GRAPHS
from tvm_mpq.calibrate.sensitivity import trials
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.numerics.saved_plan import load_plan
from tvm_mpq.passes.lowering import KernelStep, lower
from tvm_mpq.pipeline import build_network
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.problem import Space
from tvm_mpq.schema import FLOAT_BITS, Plan, TensorQuant

NAME = "att.attention"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("attention") / "net.onnx"
    onnx.save(GRAPHS["attention"](), str(path))
    return str(path)


def test_it_is_a_choice_like_any_other(model: str) -> None:
    """Bytes in and both formats out; a loss of its own; all inputs at just 8 bits."""
    prepared = prepare(model, target="haswell")
    graph = prepared.graph
    (node,) = (n for n in graph.nodes if n.kind == "attention")
    assert (node.name, node.candidates, node.inputs) == (NAME, ("fp32", "w8a8"), ("q", "k", "v"))
    options = Space(graph, prepared.features, 1).options(node)
    assert {label: set(emitted) for label, emitted in options.items()} == {"fp32": {32}, "w8a8": {8, 32}}
    ranges = [TensorQuant(bits, 0.05, 2 ** (bits - 1)) for bits in graph.activation_bits]
    quants = dict.fromkeys(graph.integer_tensors(), ranges)
    operators = {n.name: "fp32" for n in graph.quantizable()}
    plan = Plan("haswell", prepared.tvm_target_attrs, operators, quants, dict.fromkeys(graph.tensors, FLOAT_BITS))
    (found,) = (t for t in trials(graph, plan, prepared.features) if t.operator == NAME)
    (step,) = (s for s in found.steps if isinstance(s, KernelStep) and s.node == NAME)
    assert [v.bits for v in step.inputs] == [8, 8, 8] and step.output.bits == FLOAT_BITS
    assert {v.tensor for v in step.inputs} <= set(quants)


def test_a_plan_that_says_nothing_of_it_leaves_it_float(model: str) -> None:
    prepared = prepare(model, target="haswell")
    operators = {n.name: "fp32" for n in prepared.graph.weighted()}
    steps = lower(prepared.graph, Plan("haswell", prepared.tvm_target_attrs, operators, {}), prepared.features)
    assert [s.kernel.family.name for s in steps if isinstance(s, KernelStep) and s.node == NAME] == [
        "f32_attention__generic"
    ]


@pytest.mark.isa("avx2")
def test_uniform_8_bits_build_it(model: str, tmp_path: Path) -> None:
    """The build compares its library with the operators one by one; other tests hold these to the definition."""
    data = {"x": np.random.default_rng(0).standard_normal((4, 9, 24)).astype(np.float32)}
    result = build_network(Options(model, data=data, db=tmp_path / "latency.db"), uniform="w8a8")
    assert set(result.plan.operators.values()) == {"w8a8"} and NAME in result.plan.operators
    result.save(tmp_path / "built")
    assert load_plan(tmp_path / "built")[0].operators[NAME] == "w8a8"
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "built" / "model.so")), tvm.cpu())
    got = machine["main"](tvm.runtime.tensor(data["x"][:1])).numpy()
    (want,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": data["x"][:1]})
    assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)
