"""Sensitivity: one operator changed, everything else as it was."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpq_testing.lab import Lab
from tvm_mpq.calibrate.sensitivity import Loss, divergence, float_plan, kl_divergence, measure_losses, trials
from tvm_mpq.errors import DataError
from tvm_mpq.execute.accuracy import metric_for
from tvm_mpq.passes.lowering import KernelStep
from tvm_mpq.schema import FLOAT_BITS, FP32, Plan

FLOATS = st.floats(-50, 50, width=32)


def softmax(x: np.ndarray) -> np.ndarray:
    shares = np.exp(x - x.max())
    return shares / shares.sum()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=20), FLOATS)
def test_kl_is_no_distance_below_zero_and_ignores_shifts(pairs: list[tuple[float, float]], shift: float) -> None:
    p, q = (np.array(x, np.float64) for x in zip(*pairs, strict=True))
    total_variation = np.abs(softmax(p) - softmax(q)).sum() / 2
    assert kl_divergence(p, q) >= 2 * total_variation**2 - 1e-9  # Pinsker's inequality
    assert kl_divergence(p, p + shift) == pytest.approx(0, abs=1e-9)
    assert kl_divergence(p, q) == pytest.approx(kl_divergence(p + shift, q), rel=1e-6, abs=1e-9)


def test_kl_of_known_distributions() -> None:
    p, q = np.log([0.5, 0.5]), np.log([0.9, 0.1])
    assert kl_divergence(p, q) == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    both = kl_divergence(np.stack([p, q]), np.stack([q, q]))
    assert both == pytest.approx(kl_divergence(p, q) / 2)  # the mean of a batch's rows


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_infinite_loss(value: float) -> None:
    good, bad = np.array([[0.0, 1.0]], np.float32), np.array([[value, 1.0]], np.float32)
    assert kl_divergence(good, bad) == kl_divergence(bad, good) == math.inf
    loss = Loss()
    loss.add(good, good, 1)
    assert loss.mean("kl") == loss.mean("mse") == 0
    loss.add(good, bad, 1)
    loss.add(good, good, 1)
    assert loss.mean("kl") == loss.mean("mse") == math.inf
    assert (loss.samples, loss.broken, loss.disagree, loss.wrong) == (3, 1, 1, 1)
    json.dumps(dataclasses.asdict(loss), allow_nan=False)  # as the database keeps it


def test_a_broken_float_network_is_no_reference(tiny: Lab) -> None:
    """Values so large that the first convolution overflows: the text names it, not what comes behind."""
    plan = float_plan(tiny.graph, tiny.plan("fp32"))
    huge = [{name: x / np.abs(x).max() * np.float32(1e38) for name, x in sample.items()} for sample in tiny.samples]
    with pytest.raises(DataError, match="operator 'stem' at fp32 gives NaN or infinity on calibration sample 0"):
        measure_losses(tiny.interpreter, tiny.steps(plan), [], huge, None)


def test_loss_counts() -> None:
    loss = Loss()
    loss.add(np.array([[0.0, 1.0, 0.0]]), np.array([[2.0, 1.0, 0.0]]), 1)  # right before, wrong after
    loss.add(np.array([[0.0, 1.0, 0.0]]), np.array([[0.0, 2.0, 0.0]]), 1)  # right both times
    loss.add(np.array([[0.0, 1.0, 0.0]]), np.array([[2.0, 1.0, 0.0]]), 0)  # wrong before, right after
    loss.add(np.array([[0.0, 1.0, 0.0]]), np.array([[2.0, 1.0, 0.0]]), None)
    assert (loss.samples, loss.disagree, loss.wrong) == (4, 3, 0)
    assert loss.mse == pytest.approx(4 + 1 + 4 + 4)


def test_probabilities_lose_what_their_logits_lose() -> None:
    reference, changed = np.array([[4.0, 1.0, -3.0]], np.float32), np.array([[2.0, 3.0, -1.0]], np.float32)
    logits, ended = Loss(), Loss()
    logits.add(reference, changed, 0)
    ended.add(*(np.exp(x) / np.exp(x).sum() for x in (reference, changed)), 0)
    assert ended.kl == pytest.approx(logits.kl, rel=1e-5)


def test_divergence_is_of_logits_over_a_temperature(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=(2, 1, 10))
    assert divergence(4 * one, 4 * other, "kl") == pytest.approx(16 * kl_divergence(one, other))
    small = divergence(one, one + 1e-3 * other, "kl")
    shares = softmax(one[0] / 4)
    variance = shares @ other[0] ** 2 - (shares @ other[0]) ** 2
    assert small == pytest.approx(1e-6 * variance / 2, rel=1e-2)  # of small errors the variance under softmax(y / T)
    assert divergence(one, 1.1 * one, "mse") == pytest.approx(0.01)


def test_a_sure_sample_shows_what_it_loses() -> None:
    """fp32 is sure of images that it was trained on: at temperature 1 an error of a tenth of the logits is nothing."""
    sure = np.array([[18.0, 2.0, -4.0, 0.0]])
    assert kl_divergence(sure, 0.9 * sure) < 1e-4 < 0.05 < divergence(sure, 0.9 * sure, "kl")


def test_a_class_of_no_probability_is_no_infinite_loss() -> None:
    """A float32 softmax gives 0 where the logits lie 104 apart or more."""
    loss = Loss()
    loss.add(np.array([[1.0, 0.0]], np.float32), np.array([[0.75, 0.25]], np.float32), None)
    assert 1 < loss.kl < 20


def test_a_trial_for_every_candidate_but_fp32(tiny: Lab) -> None:
    found = trials(tiny.graph, float_plan(tiny.graph, tiny.plan("fp32")), tiny.prepared.features)
    wanted = {(n.name, c) for n in tiny.graph.weighted() for c in n.candidates if c != "fp32"}
    assert {(t.operator, str(t.precision)) for t in found} == wanted


def test_a_trial_is_the_whole_network_with_one_operator_changed(tiny: Lab) -> None:
    """Running only what changed on top of the float values gives what running all of it gives."""
    plan = float_plan(tiny.graph, tiny.plan("fp32"))
    base_steps = tiny.steps(plan)
    found = trials(tiny.graph, plan, tiny.prepared.features)
    for trial in found:
        changed = [s for s in trial.steps if isinstance(s, KernelStep) and s.kernel.request.precision != FP32]
        assert {s.node for s in changed if ":" not in s.node} == {trial.operator}
        tiny.interpreter.prepare([*base_steps, *trial.steps])
        base = tiny.interpreter.run(base_steps, tiny.interpreter.load(tiny.samples[0]), tag="base")
        quick = tiny.interpreter.outputs(tiny.interpreter.run(trial.steps, base, tag="trial"))[0]
        formats = dict.fromkeys(tiny.graph.tensors, FLOAT_BITS)
        whole = Plan("", {}, {**plan.operators, trial.operator: str(trial.precision)}, tiny.ranges, formats)
        np.testing.assert_array_equal(quick, tiny.interpret(whole)[0])


def test_fewer_bits_lose_more(tiny: Lab) -> None:
    plan = float_plan(tiny.graph, tiny.plan("fp32"))
    todo = trials(tiny.graph, plan, tiny.prepared.features)
    losses = measure_losses(tiny.interpreter, tiny.steps(plan), todo, tiny.samples, None)
    narrow = [name for name, precision in losses if precision == "w4a8"]
    assert narrow
    for name in narrow:
        assert 0 < losses[name, "w8a8"].mse < losses[name, "w4a8"].mse
    assert all(loss.samples == len(tiny.samples) for loss in losses.values())


def test_it_goes_on_where_it_stopped(tiny: Lab) -> None:
    plan = float_plan(tiny.graph, tiny.plan("fp32"))
    todo = trials(tiny.graph, plan, tiny.prepared.features)
    steps, labels = tiny.steps(plan), np.zeros(len(tiny.samples), np.int64)
    kept: dict[int, dict] = {}

    def keep(done: int, sums: dict[tuple[str, str], Loss]) -> None:
        kept[done] = {key: dataclasses.replace(loss) for key, loss in sums.items()}

    whole = measure_losses(tiny.interpreter, steps, todo, tiny.samples, labels, on_sample=keep)
    assert sorted(kept) == list(range(1, len(tiny.samples) + 1))
    rest = measure_losses(tiny.interpreter, steps, todo, tiny.samples, labels, start=2, losses=kept[2])
    assert rest == whole


def test_metric(tiny: Lab) -> None:
    def metric(result: tuple[int, ...]) -> str:
        (output,) = tiny.graph.outputs
        tensor = dataclasses.replace(tiny.graph.tensors[output], shape=result)
        return metric_for(dataclasses.replace(tiny.graph, tensors={**tiny.graph.tensors, output: tensor}))

    assert [metric(s) for s in ((1, 10), (4, 10), (1, 10, 1, 1))] == ["kl"] * 3
    assert [metric(s) for s in ((1, 3, 6, 6), (1, 5, 8, 8), (1, 1), (1, 6, 16))] == ["mse"] * 4
