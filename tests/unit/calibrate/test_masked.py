"""Sensitivity by masks: what is run, what the numbers are made of, and that they rank as sensitivity does."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from mpq_testing.lab import Lab
from tvm_mpq.calibrate import masked
from tvm_mpq.calibrate.masked import mask, masked_losses, own_steps, sample_work
from tvm_mpq.calibrate.sensitivity import divergence, float_plan, measure_losses, trials
from tvm_mpq.errors import DataError
from tvm_mpq.execute.accuracy import metric_for
from tvm_mpq.passes.lowering import KernelStep, StoredValue, made_by
from tvm_mpq.schema import FLOAT_BITS
from tvm_mpq.tuning.predictor.heldout import spearman


def prepared(lab: Lab) -> tuple[list, list]:
    plan = float_plan(lab.graph, lab.plan("fp32"))
    return lab.steps(plan), trials(lab.graph, plan, lab.prepared.features)


def power(x: np.ndarray) -> float:
    return float((x.astype(np.float64) ** 2).sum())


def test_masks_let_half_of_the_channels_through(rng: np.random.Generator) -> None:
    for channels, wanted in ((1, 1), (2, 1), (16, 8), (33, 16)):
        found = mask(channels, rng)
        assert found.dtype == np.float32 and set(found) <= {0, 1} and found.sum() == wanted
    seen = np.sum([mask(16, rng) for _ in range(200)], axis=0)
    assert seen.min() > 70 and seen.max() < 130  # each as often as any other


def test_an_operators_own_steps_end_with_its_output(tiny: Lab) -> None:
    _, todo = prepared(tiny)
    nodes = {n.name: n for n in tiny.graph.weighted()}
    for trial in todo:
        own = own_steps(trial, nodes[trial.operator])
        assert made_by(own[-1]) == StoredValue(nodes[trial.operator].output, FLOAT_BITS)
        assert {s.node for s in own if isinstance(s, KernelStep) and ":" not in s.node} == {trial.operator}


def test_the_estimate_is_noise_times_the_root_of_gain(tiny: Lab) -> None:
    """Anew, by whole networks: of one operator, one sample."""
    steps, todo = prepared(tiny)
    name, metric = tiny.names[1], metric_for(tiny.graph)
    some = [t for t in todo if t.operator == name]
    found = masked_losses(tiny.graph, tiny.interpreter, steps, some, tiny.samples[:1], metric=metric, seed=3)
    node = next(n for n in tiny.graph.weighted() if n.name == name)
    value = StoredValue(node.output, FLOAT_BITS)
    base = tiny.interpreter.run(steps, tiny.interpreter.load(tiny.samples[0]), tag="again")
    whole = base[value].numpy()
    errors = {}
    for trial in some:
        own = own_steps(trial, node)
        errors[str(trial.precision)] = tiny.interpreter.run(own, base, tag="own")[value].numpy() - whole
    sizes = {p: power(e) / power(whole) for p, e in errors.items()}
    error = errors[max(sizes, key=lambda p: (sizes[p], p))] * mask(whole.shape[-1], np.random.default_rng((3, 0, 0)))
    passed = power(error) / power(whole)
    after = steps[steps.index(next(s for s in steps if made_by(s) == value)) + 1 :]
    changed = {**base, value: tiny.interpreter.array(whole + error)}
    output = tiny.interpreter.outputs(tiny.interpreter.run(after, changed, tag="rest"))[0]
    lost = divergence(tiny.interpreter.outputs(base)[0], output, metric)
    assert lost > 0
    for precision, size in sizes.items():
        assert found[name, precision] == pytest.approx(size * math.sqrt(lost / passed), rel=1e-6)


def test_it_ranks_as_sensitivity_does(tiny: Lab) -> None:
    steps, todo = prepared(tiny)
    losses = measure_losses(tiny.interpreter, steps, todo, tiny.samples, None)
    found = masked_losses(tiny.graph, tiny.interpreter, steps, todo, tiny.samples, metric=metric_for(tiny.graph))
    keys = [key for key in losses if key in found]
    assert set(found) == set(losses) and len(keys) > 5
    ranks = spearman(np.array([found[k] for k in keys]), np.array([losses[k].mean("kl") for k in keys]))
    assert ranks > 0.8


def test_the_same_masks_for_the_same_seed(tiny: Lab) -> None:
    steps, todo = prepared(tiny)

    def found(seed: int) -> dict[tuple[str, str], float]:
        return masked_losses(tiny.graph, tiny.interpreter, steps, todo, tiny.samples[:2], metric="kl", seed=seed)

    assert found(1) == found(1) != found(2)


def test_every_sample_has_masks_of_its_own(tiny: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, todo = prepared(tiny)
    drawn: list[bytes] = []

    def watched(channels: int, rng: np.random.Generator) -> np.ndarray:
        drawn.append(mask(channels, rng).tobytes())
        return np.frombuffer(drawn[-1], np.float32)

    monkeypatch.setattr(masked, "mask", watched)
    masked_losses(tiny.graph, tiny.interpreter, steps, todo, tiny.samples[:2], metric="kl")
    count = len(tiny.names)
    assert len(drawn) == 2 * count
    assert sum(a != b for a, b in zip(drawn[:count], drawn[count:], strict=True)) > count / 2


def test_outputs_that_are_not_finite_tell_nothing_of_gains() -> None:
    """Of three precisions one gives NaN: it is infinitely noisy, and the mask takes the noisiest of the others."""

    class Runs:
        def run(self, steps, base, tag):  # type: ignore[no-untyped-def]
            return steps[0](base)

        def outputs(self, values):  # type: ignore[no-untyped-def]
            return [values["out"]]

        def array(self, x):  # type: ignore[no-untyped-def]
            return SimpleNamespace(numpy=lambda: x)

    runs, value = Runs(), StoredValue("t", FLOAT_BITS)
    base = {value: runs.array(np.ones((1, 4), np.float32))}
    off = {"w8a8": 0.01, "w2a8": np.nan, "w4a8": 0.1}
    ways = {p: [lambda b, e=e: {value: runs.array(np.full((1, 4), 1 + e, np.float32))}] for p, e in off.items()}
    reference, sums = np.array([[1.0, 2.0]]), masked.MaskedSums()
    for output in ([np.nan, 1.0], [1.5, 2.0]):
        behind = [lambda b, out=output: {"out": np.array([out])}]
        given = (runs, SimpleNamespace(output="t"), ways, behind, base, reference, "kl", np.random.default_rng(0), sums)
        masked._add(*given)  # type: ignore[arg-type]
        if output[0] != output[0]:
            assert (sums.lost, sums.passed) == (0, 0)
    assert sums.lost > 0 and sums.passed == pytest.approx(0.1**2 / 2, rel=1e-4)  # half of the channels of w4a8
    assert sums.noise["w2a8"] == math.inf and sums.noise["w8a8"] == pytest.approx(2 * 0.01**2, rel=1e-4)


def test_it_runs_less(tiny: Lab) -> None:
    steps, todo = prepared(tiny)
    found = sample_work(tiny.graph, steps, todo)
    precisions = len(todo) / len(tiny.names)
    assert 0 < found.masked < found.full
    # What it saves are runs of the rest of the network: one instead of one a precision.
    first = [t for t in todo if t.operator == tiny.names[0]]
    one = sample_work(tiny.graph, steps, first)
    base = masked.multiply_adds(steps)
    own = masked.multiply_adds([s for s in steps if made_by(s).tensor == next(iter(tiny.graph.weighted())).output])
    rest = base - own
    assert precisions > 1 and len(first) > 1
    assert one.full - one.masked == (len(first) - 1) * rest


def test_what_is_not_finite_is_an_infinite_loss(tiny: Lab) -> None:
    sums = masked.MaskedSums({"w4a8": math.inf, "w8a8": 2.0}, passed=4.0, lost=1.0)
    assert sums.loss("w4a8", 2) == math.inf and sums.loss("w8a8", 2) == 0.5
    steps, todo = prepared(tiny)
    huge = [{name: x / np.abs(x).max() * np.float32(1e38) for name, x in s.items()} for s in tiny.samples[:1]]
    with pytest.raises(DataError, match="operator 'stem' at fp32 gives NaN or infinity on calibration sample 0"):
        masked_losses(tiny.graph, tiny.interpreter, steps, todo, huge, metric="kl")
