"""A network in PyTorch against the compiled kernels, tensor by tensor.

Integers are equal. A float sum of n terms may be off by n * 2^-24 of the sum of their sizes; the networks here add up
few hundred terms of like size, which is below 2e-5 of the greatest value, and little of that grows on the way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mpq_testing.lab import Lab
from mpq_testing.networks import NormalForm
from mpq_testing.onnx_models import GRAPHS
from mpq_testing.slowly import SLOW
from tvm_mpq.errors import InvalidValueError, UnsupportedModelError
from tvm_mpq.numerics.weight_codes import QuantizedWeight, WeightCodes
from tvm_mpq.passes.annotate import Annotate
from tvm_mpq.passes.graph import read_graph
from tvm_mpq.passes.lowering import StoredValue, lower
from tvm_mpq.schema import FLOAT_BITS, Plan, Precision
from tvm_mpq.targets import features, local_row, to_tvm_attrs
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.values import TensorValue

Labs = Callable[[str], Lab]


def network_of(lab: Lab, plan: Plan, codes: WeightCodes | None = None) -> QuantizedNetwork:
    return QuantizedNetwork(lab.graph, plan, lab.prepared.features, codes).eval()


def run(lab: Lab, network: QuantizedNetwork, samples: slice = slice(0, 1)) -> dict[StoredValue, TensorValue]:
    inputs = [np.concatenate([s[name] for s in lab.samples[samples]]) for name in lab.graph.inputs]
    with torch.no_grad():
        return network.values(*map(torch.from_numpy, inputs))


def assert_equal(got: dict[StoredValue, TensorValue], wanted: dict[StoredValue, np.ndarray]) -> None:
    assert len(got) == len(wanted)
    for value, result in got.items():
        data, expected = result.data.numpy(), wanted[value]
        if value.bits == FLOAT_BITS:
            bound = 2e-5 * np.abs(expected).max()
            np.testing.assert_allclose(data, expected, rtol=1e-4, atol=bound, err_msg=str(value))
        else:
            assert result.quant is not None
            np.testing.assert_array_equal(data + result.quant.zero_point, expected, err_msg=str(value))


IN_FLOATS = ("residual", "attention", "one_dimensional", "transposed", "float_middle", "multilayer")
"""All kinds of operators; at 8 bits every graph is walked, and what it has in floats with it."""


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=SLOW if precision == "fp32" and name not in IN_FLOATS else [])
        for name in GRAPHS
        for precision in ("fp32", "w8a8")
    ],
)
def test_values_equal_those_of_the_kernels(training_lab: Labs, name: str, precision: str) -> None:
    lab = training_lab(name)
    plan = lab.plan(precision)
    assert_equal(run(lab, network_of(lab, plan)), lab.values(plan))


@pytest.mark.parametrize("precision", ["w4a8", "w4a4", "w2a4", "w1a2"])
@pytest.mark.parametrize("name", ["residual", "activations", "depthwise_and_shortcut"])
def test_values_at_few_bits_equal_those_of_the_kernels(training_lab: Labs, name: str, precision: str) -> None:
    lab = training_lab(name)
    plan = lab.plan(precision)
    assert_equal(run(lab, network_of(lab, plan)), lab.values(plan))


def test_values_of_mixed_plans_equal_those_of_the_kernels(training_lab: Labs, rng: np.random.Generator) -> None:
    lab = training_lab("residual")
    for _ in range(3):
        choices = rng.choice(["fp32", "w8a8", "w4a4", "w2a8", "w2a2"], len(lab.names))
        plan = lab.plan("w8a8", dict(zip(lab.names, map(str, choices), strict=True)))
        assert_equal(run(lab, network_of(lab, plan)), lab.values(plan))


def test_float_outputs_of_integer_operators(training_lab: Labs) -> None:
    """Formats say float everywhere: nothing is requantized, sums leave the operators as real values."""
    lab = training_lab("residual")
    plan = lab.plan("w4a4", formats=dict.fromkeys(lab.graph.tensors, FLOAT_BITS))
    assert_equal(run(lab, network_of(lab, plan)), lab.values(plan))


@pytest.mark.parametrize("name", ["residual", "batch_of_two", "float_middle", "two_inputs", "one_dimensional"])
def test_a_batch_is_its_samples(training_lab: Labs, name: str) -> None:
    lab = training_lab(name)
    network = network_of(lab, lab.plan("w8a8"))
    together = run(lab, network, slice(0, 3))
    for i in range(3):
        for value, result in run(lab, network, slice(i, i + 1)).items():
            rows = len(result.data)
            part = together[value].data[i * rows : (i + 1) * rows]
            tolerance = 1e-5 * float(result.data.abs().max()) if value.bits == FLOAT_BITS else 0
            torch.testing.assert_close(part, result.data, rtol=0, atol=tolerance, msg=str(value))


def test_forward_gives_the_outputs(training_lab: Labs) -> None:
    lab = training_lab("two_outputs")
    network = network_of(lab, lab.plan("w8a8"))
    values = run(lab, network)
    outputs = network(torch.from_numpy(lab.samples[0]["x"]))
    assert [tuple(y.shape) for y in outputs] == [lab.graph.tensors[name].shape for name in lab.graph.outputs]
    for name, y in zip(lab.graph.outputs, outputs, strict=True):
        assert torch.equal(y, values[StoredValue(name, FLOAT_BITS)].data)


@pytest.mark.parametrize("bits", [1, 4])
def test_given_codes_are_the_network(training_lab: Labs, rng: np.random.Generator, bits: int) -> None:
    lab = training_lab("residual")
    plan = lab.plan(f"w{bits}a8")
    high = 2 ** (bits - 1) - 1 if bits > 1 else 1
    given = {}
    for node in lab.graph.weighted():
        codes = rng.integers(-high, high + 1, node.weight.shape)
        codes[codes == 0] = 1 if bits == 1 else 0
        scales = rng.uniform(0.01, 0.1, len(codes)).astype(np.float32)
        given[node.name] = QuantizedWeight(codes.astype(np.int8), scales, bits)
    codes = WeightCodes(given)
    wanted = lab.values_of(lower(lab.graph, plan, lab.prepared.features, codes))
    assert_equal(run(lab, network_of(lab, plan, codes)), wanted)


def test_training_mode_differs_by_roundings_only(training_lab: Labs) -> None:
    """A step more or less, and only where a value lay on a tie: below one in a thousand here."""
    lab = training_lab("residual")
    network = network_of(lab, lab.plan("w4a8"))
    exact, fast = run(lab, network), run(lab, network.train())
    network.exact = True
    assert all(torch.equal(x.data, exact[v].data) for v, x in run(lab, network).items())
    for value, x in fast.items():
        if value.bits != FLOAT_BITS:
            moved = (x.data - exact[value].data).abs()
            assert moved.max() <= 1 and (moved > 0).float().mean() < 1e-3, value


def test_gradients_are_those_of_the_float_network(training_lab: Labs) -> None:
    """At 8 bits the straight-through gradients of the weights point where those of the float network point."""
    lab = training_lab("residual")
    gradients = []
    for precision in ("fp32", "w8a8"):
        network = network_of(lab, lab.plan(precision)).train()
        (y,) = network(torch.from_numpy(lab.samples[0]["x"]))
        y.square().sum().backward()
        gradients.append({name: c.weight.grad for name, c in network.convolutions.items()})
        if precision == "w8a8":
            assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    for name in lab.names:
        a, b = (g[name].flatten() for g in gradients)
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.9, name


def test_a_learned_step_is_in_the_plan(training_lab: Labs) -> None:
    lab = training_lab("residual")
    plan = lab.plan("w4a4")
    network = network_of(lab, plan)
    assert network.learned_plan() == plan
    key = next(key for key in network.ranges if key[1] == 4)
    with torch.no_grad():
        network.ranges[key].log_ratio.fill_(0.25)
    learned = network.learned_plan()
    changed = learned.quant(*key).scale / plan.quant(*key).scale
    assert changed == pytest.approx(np.exp(0.25), rel=1e-6)
    assert dataclasses.replace(learned, tensors=plan.tensors) == plan
    assert_equal(run(lab, network), lab.values(learned))


def test_what_lower_refuses_is_refused(training_lab: Labs) -> None:
    lab = training_lab("residual")
    with pytest.raises(InvalidValueError, match="no 3 bit range"):
        network_of(lab, lab.plan("w4a3"))


def test_an_operator_without_a_form_is_named(training_lab: Labs) -> None:
    from tvm import relax

    def body(form: NormalForm, x: relax.Var) -> relax.Var:
        return form._builder.emit(relax.op.cumsum(form.nhwc(x), axis=2), "running")

    assert_refused(body, r"'running' \(relax.cumsum\) has no form .* covered .*: abs, add, ")


def test_work_along_the_batch_is_named(training_lab: Labs) -> None:
    from tvm import relax

    def body(form: NormalForm, x: relax.Var) -> relax.Var:
        return form._builder.emit(relax.op.mean(form.nhwc(x), axis=[0, 1]), "average")

    assert_refused(body, r"'average' \(relax.mean\) mixes or moves the batch axis")


def assert_refused(body: Callable[..., object], text: str) -> None:
    row = local_row()
    mod = Annotate(target=row, threads=1, offered=[Precision.parse("w8a8")])(NormalForm((1, 3, 6, 6)).build(body))
    plan = Plan(row.name, to_tvm_attrs(row, 1), {}, {})
    with pytest.raises(UnsupportedModelError, match=text) as caught:
        QuantizedNetwork(read_graph(mod), plan, features(row))
    assert "\n" not in str(caught.value)
