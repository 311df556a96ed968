"""Sensitivity estimated by masks: one run of the rest of the network for each operator, instead of one a precision.

OHQ (arXiv 2309.01945) estimates on the device what an operator's bits cost, by masking and by the KL divergence between
outputs of the original and of the quantized; its formula is not public, and this one is ours. Where errors are small,
the divergence at the network's output grows with their square. It is therefore split in two:

    loss(operator, precision) ~ gain(operator) * noise(operator, precision)

    noise      ||y_q - y||^2 / ||y||^2 of the operator's own output y: only the operator itself runs again
    gain       sqrt(divergence / noise), where a mask lets the error of the noisiest precision through on a random half
               of the channels of y, a new half for each sample; sums over samples

The divergence is that of `sensitivity`. The square root draws gains together: they are known from few samples. No
labels, no gradients and no data are needed: samples may be synthetic. On a board all of it runs there, and one tensor
of each operator and precision comes back.

Estimates rank operators and precisions; they are in no unit that a table of `sensitivity` could be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tvm_mpq.calibrate.sensitivity import Trial, divergence, downstream, float_outputs
from tvm_mpq.execute.interpreter import Interpreter, Sample, Values
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.lowering import KernelStep, Step, StoredValue, made_by
from tvm_mpq.schema import FLOAT_BITS, AttentionWorkload, Conv2dWorkload, Progress, RecurrentWorkload

OPEN = 0.5
"""Share of an operator's channels whose error the mask lets through."""

VERSION = 3
"""Part of stored keys: raise it when equal inputs give other estimates."""

SAMPLES = 8
"""That are looked at; sensitivity itself takes four times as many."""

_TINY = 1e-30


@dataclass
class MaskedSums:
    """Of one operator, over samples. noise: precision -> sum of its noise; passed: of what masks let through; lost: of
    what the network's output lost by it."""

    noise: dict[str, float] = field(default_factory=dict)
    passed: float = 0.0
    lost: float = 0.0

    def loss(self, precision: str, samples: int) -> float:
        """The estimate, mean over samples; infinite where outputs were not finite."""
        noise = self.noise[precision] / samples
        if not math.isfinite(noise):
            return math.inf
        return noise * math.sqrt(self.lost / self.passed) if self.passed > 0 else 0.0


def masked_losses(
    graph: Graph,
    interpreter: Interpreter,
    float_steps: Sequence[Step],
    todo: Sequence[Trial],
    samples: Sequence[Sample],
    *,
    metric: str,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[tuple[str, str], float]:
    """(operator, precision) -> estimated loss, of a classifier (metric `kl`) or of anything else (`mse`).

    Parameters
    ----------
    float_steps
        The network lowered with every operator in fp32.
    todo
        What is estimated, as `sensitivity.trials` gives it.
    seed
        Of the masks.

    Raises
    ------
    DataError
        If the fp32 network gives NaN or infinity; the text names the operator where that begins.
    """
    nodes = {node.name: node for node in graph.quantizable()}
    alone = {(t.operator, str(t.precision)): own_steps(t, nodes[t.operator]) for t in todo}
    behind = {name: _behind(graph, float_steps, nodes[name]) for name in dict.fromkeys(t.operator for t in todo)}
    interpreter.prepare([*float_steps, *(step for steps in alone.values() for step in steps)])
    sums = {name: MaskedSums() for name in behind}
    for i, sample in enumerate(samples):
        base, reference = float_outputs(interpreter, float_steps, sample, i)
        for n, name in enumerate(behind):
            rng = np.random.default_rng((seed, i, n))
            ways = {precision: steps for (operator, precision), steps in alone.items() if operator == name}
            _add(interpreter, nodes[name], ways, behind[name], base, reference, metric, rng, sums[name])
        if progress:
            progress(i + 1, len(samples), "sensitivity by masks")
    return {(operator, precision): sums[operator].loss(precision, len(samples)) for operator, precision in alone}


def _add(
    interpreter: Interpreter,
    node: Node,
    ways: Mapping[str, Sequence[Step]],
    behind: Sequence[Step],
    base: Values,
    reference: Array,
    metric: str,
    rng: np.random.Generator,
    sums: MaskedSums,
) -> None:
    """One sample of one operator. ways: precision -> the steps that give its output at that precision."""
    value = StoredValue(node.output, FLOAT_BITS)
    whole = base[value].numpy()
    power = max(float(np.square(whole, dtype=np.float64).sum()), _TINY)
    noise: dict[str, float] = {}
    errors: dict[str, npt.NDArray[np.float32]] = {}
    for precision, steps in ways.items():
        error = interpreter.run(steps, base, tag="masked")[value].numpy() - whole
        size = float(np.square(error, dtype=np.float64).sum()) / power
        noise[precision] = size if math.isfinite(size) else math.inf
        errors[precision] = error
    for precision, size in noise.items():
        sums.noise[precision] = sums.noise.get(precision, 0.0) + size
    finite = sorted((size, precision) for precision, size in noise.items() if math.isfinite(size))
    if not finite or finite[-1][0] == 0:
        return
    error = errors[finite[-1][1]] * mask(whole.shape[-1], rng)
    passed = float(np.square(error, dtype=np.float64).sum()) / power
    if passed == 0:
        return
    changed = {**base, value: interpreter.array(whole + error)}
    output = interpreter.outputs(interpreter.run(behind, changed, tag="masked"))[0]
    lost = divergence(reference, output, metric)
    if math.isfinite(lost):
        sums.passed += passed
        sums.lost += lost


def mask(channels: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """float32[channels] of 0 and 1: `OPEN` of them 1, at least one."""
    found = np.zeros(channels, np.float32)
    found[rng.permutation(channels)[: max(1, round(OPEN * channels))]] = 1
    return found


def own_steps(trial: Trial, node: Node) -> tuple[Step, ...]:
    """The steps of a trial up to its operator's float32 output, conversions included."""
    value = StoredValue(node.output, FLOAT_BITS)
    last = max(i for i, step in enumerate(trial.steps) if made_by(step) == value)
    return trial.steps[: last + 1]


def _behind(graph: Graph, float_steps: Sequence[Step], node: Node) -> list[Step]:
    """Steps of the float network that depend on the operator's output."""
    reached = downstream(graph, node.output) - {node.output}
    return [step for step in float_steps if made_by(step).tensor in reached]


def multiply_adds(steps: Sequence[Step]) -> int:
    """Of convolutions, linear and recurrent layers and attention, what runs cost most of."""
    works = (step.kernel.request.workload for step in steps if isinstance(step, KernelStep))
    return sum(work.macs for work in works if isinstance(work, Conv2dWorkload | AttentionWorkload | RecurrentWorkload))


@dataclass(frozen=True)
class SampleWork:
    """Multiply-adds of one sample: of the estimate, and of the sensitivity that it stands for."""

    masked: int
    full: int


def sample_work(graph: Graph, float_steps: Sequence[Step], todo: Sequence[Trial]) -> SampleWork:
    """What one sample takes either way; the float network's own run is in both."""
    nodes = {node.name: node for node in graph.quantizable()}
    base = multiply_adds(float_steps)
    full = base + sum(multiply_adds(t.steps) for t in todo)
    own = sum(multiply_adds(own_steps(t, nodes[t.operator])) for t in todo)
    behind = sum(
        multiply_adds(_behind(graph, float_steps, nodes[name])) for name in dict.fromkeys(t.operator for t in todo)
    )
    return SampleWork(base + own + behind, full)
