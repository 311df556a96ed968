"""A whole network under a plan is one thing: its definition in NumPy, the interpreter, and the library all agree."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mpq_testing.definition import assert_steps_follow_the_definition, is_integer
from mpq_testing.lab import Lab
from mpq_testing.offered import few_bits
from mpq_testing.onnx_models import GRAPHS, reference_outputs
from mpq_testing.slowly import SLOW, slow_but
from tvm_mpq.passes.lowering import KernelStep, ReshapeStep
from tvm_mpq.schema import FLOAT_BITS, Plan, Precision

GetLab = Callable[[str], Lab]

FLOAT_OPERATORS = {"float_middle"}
"""Networks with operators that have no template: the library fuses them, the interpreter runs them one by one."""


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def check_equal(lab: Lab, plan: Plan, built: list[np.ndarray], name: str) -> None:
    """The library against the interpreter, and where no float arithmetic happens against the definition."""
    steps = lab.steps(plan)
    for got, wanted in zip(built, lab.interpret(plan), strict=True):
        assert (got.dtype, got.shape) == (np.dtype("float32"), wanted.shape)
        if name in FLOAT_OPERATORS:
            assert relative(got, wanted) < 1e-5
        else:
            np.testing.assert_array_equal(got, wanted)
    if is_integer(steps):
        for got, wanted in zip(built, lab.define(plan), strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.fixture(scope="module")
def built_residual(lab: GetLab, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Plan, list[np.ndarray]]]:
    """Three uniform plans and two random ones of the residual network, built, and run by a stranger."""
    network = lab("residual")
    rng = np.random.default_rng(7)
    drawn = (network.random_plan(rng) for _ in itertools.count())
    mixed = (plan for plan in drawn if len(set(plan.operators.values())) > 1)  # few precisions, and all may be one
    plans = [*(network.plan(p) for p in ("fp32", "w8a8", "w4a8")), *itertools.islice(mixed, 2)]
    return list(zip(plans, network.run_built(plans, tmp_path_factory.mktemp("residual_plans")), strict=True))


@pytest.mark.parametrize("index", range(5), ids=["fp32", "w8a8", "w4a8", "random0", "random1"])
def test_library_equals_interpreter_and_definition(
    lab: GetLab, built_residual: list[tuple[Plan, list[np.ndarray]]], index: int
) -> None:
    network = lab("residual")
    plan, built = built_residual[index]
    assert_steps_follow_the_definition(network.graph, network.steps(plan), network.values(plan))
    check_equal(network, plan, built, "residual")


def test_random_plans_mix(built_residual: list[tuple[Plan, list[np.ndarray]]]) -> None:
    """Else the test above would show less than it says."""
    mixed = [set(plan.operators.values()) for plan, _ in built_residual[3:]]
    used = set().union(*mixed)
    assert used >= {"fp32", "w8a8"} and all(len(m) > 1 for m in mixed)
    assert used & set(few_bits()) or not few_bits()


EVERY = ("w8a8", "w7a8", "w6a8", "w5a8", "w4a8", "w3a8", "w2a8", "w1a8", "w3a5", "w2a5", "w2a4", "w2a2", "w1a5", "w1a4")


@pytest.mark.parametrize("threads", slow_but([1, 2], 2))
def test_all_weight_bits_in_one_network(lab: GetLab, kernels: Path, tmp_path: Path, threads: int) -> None:
    """Plans in which every operator has other bits, on several threads: integers from end to end, as defined."""
    offered = list(map(Precision.parse, EVERY))
    network = Lab(lab("residual").model, kernels, threads=threads, offered=offered)
    plans = []
    for shift in range(0, len(EVERY), len(network.names)):
        shifted = EVERY[shift:] + EVERY[:shift]
        plans.append(network.plan("w8a8", dict(zip(network.names, shifted, strict=False))))
    assert set().union(*(plan.operators.values() for plan in plans)) == set(EVERY)
    for plan, (built,) in zip(plans, network.run_built(plans, tmp_path), strict=True):
        assert is_integer(network.steps(plan))
        np.testing.assert_array_equal(built, network.define(plan)[0])


@pytest.mark.parametrize("name", ["residual", "one_dimensional", "transposed"])
@pytest.mark.parametrize("precision", ["w8a8", "w4a8"])
def test_uniform_plans_stay_in_integers(lab: GetLab, name: str, precision: str) -> None:
    """One quantization at the input; nothing goes back to floats before the output."""
    network = lab(name)
    steps = network.steps(network.plan(precision))
    assert is_integer(steps)
    assert [s.output.bits for s in steps if isinstance(s, (KernelStep, ReshapeStep))] == [8] * (len(steps) - 1) + [32]


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_float_plan_is_the_source_model(lab: GetLab, name: str) -> None:
    network = lab(name)
    inputs = dict(zip(network.prepared.inputs, network.samples[0].values(), strict=True))
    wanted = reference_outputs(network.model, inputs)
    for got, want in zip(network.interpret(network.plan("fp32")), wanted, strict=True):
        assert got.shape == want.shape
        assert relative(got, want) < 1e-4


OF_OTHER_TESTS = ("batch_of_two", "channels_last_input", "multilayer", "two_consumers", "two_inputs")
"""Graphs of operators that other kinds have too; how they are read is what the other tests here see."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=SLOW if n in OF_OTHER_TESTS else []) for n in sorted(set(GRAPHS) - {"residual"})],
)
def test_every_kind_of_graph(lab: GetLab, name: str, tmp_path: Path) -> None:
    """A random mix of precisions: each step by its definition, the library as the interpreter, close to fp32."""
    network = lab(name)
    plans = [network.plan("w8a8"), network.random_plan(np.random.default_rng(len(name)))]
    for plan in plans:
        assert_steps_follow_the_definition(network.graph, network.steps(plan), network.values(plan))
    check_equal(network, plans[1], network.run_built(plans[1:], tmp_path)[0], name)
    for got, float_output in zip(network.interpret(plans[0]), network.interpret(network.plan("fp32")), strict=True):
        assert relative(got, float_output) < 0.1


def test_a_tensor_read_at_two_precisions(lab: GetLab) -> None:
    """One reader in integers, one in floats: the tensor is emitted once and converted once."""
    network = lab("two_consumers")
    plan = network.plan("w8a8", {"right": "fp32"})
    steps = network.steps(plan)
    (shared,) = {v.tensor for s in steps if isinstance(s, KernelStep) and s.node == "left" for v in s.inputs}
    made = [s.output.bits for s in steps if isinstance(s, KernelStep) and s.output.tensor == shared]
    assert sorted(made) == [8, FLOAT_BITS]
    assert_steps_follow_the_definition(network.graph, steps, network.values(plan))


@pytest.mark.parametrize("residual", ["fp32", "w8a8"])
@pytest.mark.parametrize("reader", ["fp32", "w4a8"])
def test_a_residual_whose_producers_differ(lab: GetLab, residual: str, reader: str) -> None:
    """The shortcut (a max pooling of the stem) and the convolution that adds it, each in floats or integers."""
    network = lab("residual")
    others = {"stem": residual, "pointwise": reader, "depthwise": "fp32" if residual == "w8a8" else "w8a8"}
    plan = network.plan("w8a8", others)
    assert_steps_follow_the_definition(network.graph, network.steps(plan), network.values(plan))


def test_an_output_that_is_also_read_inside(lab: GetLab) -> None:
    """It leaves as float32 and goes on as integers; the caller gets what the integers say."""
    network = lab("two_outputs")
    plan = network.plan("w8a8")
    values = network.values(plan)
    stem = next(n for n in network.graph.weighted() if n.name == "stem").output
    held = {v.bits: x for v, x in values.items() if v.tensor == stem}
    quant = plan.quant(stem, 8)
    real = (held[8].astype(np.int32) - quant.zero_point).astype(np.float32) * np.float32(quant.scale)
    np.testing.assert_array_equal(held[FLOAT_BITS], real)
    np.testing.assert_array_equal(network.interpret(plan)[0], real.transpose(0, 3, 1, 2))


def test_max_pooling_and_reshape_share_their_input_range(lab: GetLab) -> None:
    network = lab("flattened")
    kinds = {n.kind: n for n in network.graph.nodes}
    assert network.graph.quant_root(kinds["max_pool2d"].output) == kinds["concat"].output
    assert kinds["max_pool2d"].output not in network.ranges


def test_activations_with_tables_have_a_range_in_front(lab: GetLab) -> None:
    network = lab("activations")
    with_table = {n.name for n in network.graph.weighted() if n.conv.activation not in ("none", "relu")}
    assert {"hard_swish", "gelu", "leaky", "tanh", "excite"} <= with_table
    assert {f"{name}:pre" for name in with_table} <= set(network.ranges)
