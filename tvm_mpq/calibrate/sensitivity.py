"""Sensitivity: what the network's output loses when one operator alone runs at a precision.

The compiled network runs with that one operator changed, everything else fp32: its input (and residual) is quantized,
its integer kernel runs, its result goes on as float32. This is our own estimate in the spirit of OHQ (arXiv
2309.01945), whose exact formula is not public:

    kl        mean over samples of T^2 KL(softmax(y_fp32 / T) || softmax(y_changed / T)), T = 4; y: `class_scores`
    mse       mean of ||y_changed - y_fp32||^2 / ||y_fp32||^2, for networks that are no classifiers
    disagree  share of samples whose arg max moves
    wrong     share of samples that become wrong minus those that become right, where labels are given

At temperature 1 only samples that fp32 is unsure of show any loss, which are few among those it was trained on; at 4
all show theirs, and T^2 leaves small losses of the size they have (Hinton et al., arXiv 1503.02531).

An output that holds NaN or infinity is an infinite loss, whatever the other samples say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import DataError
from tvm_mpq.execute.accuracy import class_scores, relative_error
from tvm_mpq.execute.interpreter import Interpreter, Sample, Values
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.passes.graph import Graph
from tvm_mpq.passes.lowering import KernelStep, ReshapeStep, Step, StoredValue, lower, made_by
from tvm_mpq.schema import FLOAT_BITS, FP32, Plan, Precision, Progress

Labels = npt.NDArray[np.int64]

TEMPERATURE = 4.0
"""That logits are divided by. Rank correlation of the losses' sum with the real loss (KL at temperature 1) of random
plans on test images, at temperatures 1, 2 and 4, and by squared error of logits: ResNet-20 0.89, 0.97, 0.99, 0.98;
ResNet-56 0.96, 0.99, 0.97, 0.98; MobileNetV2 0.94, 0.94, 0.95, 0.95; key words 0.98, 0.98, 0.98, 0.98; ResNet-8 0.98,
0.96, 0.96, 0.95; SqueezeNet 0.98, 0.97, 0.92, 0.93."""


@dataclass(frozen=True)
class Trial:
    """One operator at one precision, and the steps that differ from the float network."""

    operator: str
    precision: Precision
    steps: tuple[Step, ...]


@dataclass
class Loss:
    """Sums over samples; see `mean`. kl and mse leave out the `broken` samples, whose output is not finite."""

    samples: int = 0
    broken: int = 0
    kl: float = 0.0
    mse: float = 0.0
    disagree: int = 0
    wrong: int = 0

    def add(self, reference: Array, changed: Array, label: int | None) -> None:
        """reference, changed: float32[batch, ...], the first output of the network."""
        ref, out = (x.reshape(len(x), -1).astype(np.float64) for x in (reference, changed))
        self.samples += 1
        broken = not np.isfinite(out).all()
        if broken:
            self.broken += 1
        else:
            self.kl += divergence(reference, changed, "kl")
            self.mse += divergence(reference, changed, "mse")
        self.disagree += int(broken or (ref.argmax(axis=-1) != out.argmax(axis=-1)).any())
        if label is not None:
            self.wrong += int(broken or out.argmax() != label) - int(ref.argmax() != label)

    def mean(self, metric: str) -> float:
        """The mean of `kl` or `mse` over samples; infinite when an output was not finite."""
        return math.inf if self.broken else (self.kl if metric == "kl" else self.mse) / self.samples


def kl_divergence(reference: Array, changed: Array) -> float:
    """KL(softmax(reference) || softmax(changed)) of float64[..., C] logits, mean over rows, in nats, never below 0.

    Infinite where either holds NaN or infinity.
    """
    if not (np.isfinite(reference).all() and np.isfinite(changed).all()):
        return math.inf
    log_p, log_q = _log_softmax(reference), _log_softmax(changed)
    return max(0.0, float(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1).mean()))


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def trials(graph: Graph, float_plan: Plan, features: frozenset[str]) -> list[Trial]:
    """One trial per (operator, candidate other than fp32)."""
    base = {_identity(s) for s in lower(graph, float_plan, features)}
    found = []
    for node in graph.quantizable():
        reachable = downstream(graph, node.output)
        for text in node.candidates:
            precision = Precision.parse(text)
            if precision == FP32:
                continue
            operators = {**float_plan.operators, node.name: text}
            plan = Plan(float_plan.target, float_plan.tvm_target_attrs, operators, float_plan.tensors, _floats(graph))
            steps = lower(graph, plan, features)
            changed = [s for s in steps if _identity(s) not in base or made_by(s).tensor in reachable]
            found.append(Trial(node.name, precision, tuple(changed)))
    return found


def measure_losses(
    interpreter: Interpreter,
    float_steps: Sequence[Step],
    todo: Sequence[Trial],
    samples: Sequence[Sample],
    labels: Labels | None,
    *,
    progress: Progress | None = None,
    on_sample: Callable[[int, dict[tuple[str, str], Loss]], None] | None = None,
    start: int = 0,
    losses: dict[tuple[str, str], Loss] | None = None,
) -> dict[tuple[str, str], Loss]:
    """Losses of all trials over all samples, sample by sample.

    on_sample(done, losses) is called after each sample so that the caller can store them; `start` and `losses` go on
    from such a store.

    Raises
    ------
    DataError
        If the fp32 network itself gives NaN or infinity; the text names the operator where that begins.
    """
    interpreter.prepare([*float_steps, *(s for t in todo for s in t.steps)])
    lane_bytes = interpreter.lane_bytes(s for t in todo for s in t.steps)
    losses = losses or {(t.operator, str(t.precision)): Loss() for t in todo}
    for i in range(start, len(samples)):
        base, reference = float_outputs(interpreter, float_steps, samples[i], i)
        label = None if labels is None else int(labels[i])
        interpreter.each(_adding(losses, interpreter, base, reference, label), todo, lane_bytes)
        if on_sample:
            on_sample(i + 1, losses)
        if progress:
            progress(i + 1, len(samples), "sensitivity")
    return losses


def _adding(
    losses: Mapping[tuple[str, str], Loss], interpreter: Interpreter, base: Values, reference: Array, label: int | None
) -> Callable[[Trial, str], None]:
    """What runs a trial on one sample and adds what it loses: at once, since all outputs together may be large."""

    def add(trial: Trial, lane: str) -> None:
        output = interpreter.outputs(interpreter.run(trial.steps, base, tag=f"trial{lane}"))[0]
        losses[trial.operator, str(trial.precision)].add(reference, output, label)

    return add


def float_outputs(
    interpreter: Interpreter, float_steps: Sequence[Step], sample: Sample, i: int
) -> tuple[Values, Array]:
    """All tensors of the fp32 network on calibration sample number i, and its first output.

    Raises
    ------
    DataError
        If that holds NaN or infinity; the text names the operator where it begins.
    """
    base = interpreter.run(float_steps, interpreter.load(sample), tag="base")
    reference = interpreter.outputs(base)[0]
    if not np.isfinite(reference).all():
        where = _first_broken(float_steps, base)
        raise DataError(
            f"operator {where!r} at fp32 gives NaN or infinity on calibration sample {i}; check data and weights"
        )
    return base, reference


def divergence(reference: Array, changed: Array, metric: str) -> float:
    """What one sample loses, by `kl` or by `mse`; float32[batch, ...] each."""
    if metric == "mse":
        return relative_error(changed, reference) ** 2
    before, after = class_scores(reference), class_scores(changed, reference)
    return TEMPERATURE**2 * kl_divergence(before / TEMPERATURE, after / TEMPERATURE)


def _first_broken(steps: Sequence[Step], values: Values) -> str:
    """The first of these steps, which were run, whose float result is not finite."""
    broken = (s for s in steps if not np.isfinite(values[made_by(s)].numpy()).all())
    return _identity(next(broken))[0]


def predict(interpreter: Interpreter, steps: Sequence[Step], samples: Sequence[Sample]) -> list[Array]:
    """First output of the network lowered as `steps`, for each sample."""
    interpreter.prepare(steps)
    interpreter.pack(steps)

    def output_of(sample: Sample, lane: str) -> Array:
        return interpreter.outputs(interpreter.run(steps, interpreter.load(sample), tag=f"plan{lane}"))[0]

    return interpreter.each(output_of, samples, interpreter.lane_bytes(steps))


def float_plan(graph: Graph, plan: Plan) -> Plan:
    """The same plan with every operator and tensor in fp32."""
    operators = {n.name: str(FP32) for n in graph.quantizable()}
    return Plan(plan.target, plan.tvm_target_attrs, operators, plan.tensors, _floats(graph), plan.kernels)


def _floats(graph: Graph) -> dict[str, int]:
    return dict.fromkeys(graph.tensors, FLOAT_BITS)


def _identity(step: Step) -> tuple[str, str, StoredValue]:
    if isinstance(step, KernelStep):
        return step.node, step.kernel.request.key, step.output
    name = step.node if isinstance(step, ReshapeStep) else step.node.name
    return name, type(step).__name__, made_by(step)


def downstream(graph: Graph, tensor: str) -> set[str]:
    """Tensors whose value depends on this one, itself included."""
    reached = {tensor}
    for node in graph.nodes:
        if reached.intersection(node.inputs):
            reached.add(node.output)
    return reached
