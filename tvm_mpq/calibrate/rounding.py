"""Rounding of a plan's weights on calibration data: operator after operator, each to what reaches it.

The network under the plan and the float network walk over the same samples side by side. Each operator's integers are
chosen to give the float network's results on the inputs that the integers before it leave, and its bias takes up what
is left of the mean. No labels, no training, seconds a network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tvm_mpq.calibrate.lockstep import Lockstep, peak_bytes
from tvm_mpq.calibrate.patches import choose_positions, patches
from tvm_mpq.calibrate.sensitivity import float_plan
from tvm_mpq.execute.interpreter import Interpreter, Sample
from tvm_mpq.numerics.affine import dequantize, quantize
from tvm_mpq.numerics.conv import least_scale
from tvm_mpq.numerics.output_rounding import SWEEPS
from tvm_mpq.numerics.rounding import InputMoments, OperatorRounding
from tvm_mpq.numerics.weight_codes import QuantizedWeight, WeightCodes, WeightKey
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.lowering import KernelStep, Step, StoredValue, lower
from tvm_mpq.schema import FLOAT_BITS, Plan, Precision, Progress, TensorQuant

NEAREST, GPTQ = "nearest", "gptq"

ROUNDINGS = (NEAREST, GPTQ)
"""How weights are rounded: each alone, or to their operator's outputs on calibration data."""

POSITIONS = 8192
"""Of an operator's output, over all samples, that its moments are taken from."""

ALONE_SWEEPS = 1
"""Of coordinate descent where operators are only tried: each is, at every precision."""

MEMORY_BYTES = 2 << 30
"""What the tensors of all samples may take together: they are walked over at once."""


def round_plan(
    graph: Graph,
    interpreter: Interpreter,
    plan: Plan,
    features: frozenset[str],
    samples: Sequence[Sample],
    *,
    kernels: Callable[[Iterable[Step]], list[Step]] = list,
    progress: Progress | None = None,
) -> WeightCodes:
    """Codes, scales and biases of every integer operator of the plan.

    Parameters
    ----------
    samples
        One mapping from input name to float32 array per sample; of those, as many as `MEMORY_BYTES` hold.
    kernels
        What runs the steps: they themselves, or `emulated_on_int8`.

    Returns
    -------
    WeightCodes
        One entry for each integer operator, under its weight bits.
    """
    nodes = {n.name: n for n in graph.weighted()}
    steps = kernels(lower(graph, plan, features))
    floats = lower(graph, float_plan(graph, plan), features)
    interpreter.prepare([*steps, *floats])
    used = _held(samples, peak_bytes(graph, steps) + peak_bytes(graph, floats))
    mixed = Lockstep(graph, interpreter, used, steps, "rounded")
    wide = Lockstep(graph, interpreter, used, floats, "float")
    rng = np.random.default_rng(0)
    found: dict[WeightKey, QuantizedWeight] = {}
    for i, step in enumerate(steps):
        changed: Step | None = None
        if isinstance(step, KernelStep) and step.node in nodes and not step.kernel.request.precision.is_float:
            node = nodes[step.node]
            while not wide.holds(StoredValue(node.inputs[0], FLOAT_BITS)):
                wide.advance()
            weight = _rounded(node, step, moments_of(node, step, mixed, wide, rng))
            found[node.name, weight.bits] = weight
            changed = dataclasses.replace(step, operands=dataclasses.replace(step.operands, codes=weight))
        mixed.advance(changed)
        if progress:
            progress(i + 1, len(steps), "rounding weights")
    return WeightCodes(found)


def _held(samples: Sequence[Sample], sample_bytes: int) -> Sequence[Sample]:
    """As many of the samples as memory holds, evenly spaced."""
    count = min(len(samples), max(1, MEMORY_BYTES // max(1, sample_bytes)))
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).astype(np.int64)]


def moments_of(node: Node, step: KernelStep, mixed: Lockstep, wide: Lockstep, rng: np.random.Generator) -> InputMoments:
    """Of what the operator's weights meet in the network under the plan, beside what they meet in the float network."""
    quant = step.operands.inputs[0]
    assert quant is not None, f"{step.node} is an integer operator"
    count = max(1, POSITIONS // len(mixed))
    met, wanted = [], []
    pairs = zip(mixed.values(step.inputs[0]), wide.values(StoredValue(node.inputs[0], FLOAT_BITS)), strict=True)
    for integers, real in pairs:
        positions = choose_positions(node.conv, count, rng)
        met.append(dequantize(patches(node.conv, integers, positions, quant.zero_point), quant))
        wanted.append(patches(node.conv, real, positions))
    return InputMoments.of(np.concatenate(met, axis=1), np.concatenate(wanted, axis=1))


def _rounded(node: Node, step: KernelStep, moments: InputMoments) -> QuantizedWeight:
    quant, bits = step.operands.inputs[0], step.operands.weight_bits or step.kernel.request.precision.weight_bits
    assert quant is not None
    return _to_bits(node, _rounding_of(node, moments), bits, quant)


def _rounding_of(node: Node, moments: InputMoments) -> OperatorRounding:
    assert node.weight is not None
    groups, rows = node.conv.groups, node.conv.out_channels // node.conv.groups
    bias = np.zeros(node.conv.out_channels, np.float32) if node.bias is None else node.bias
    return OperatorRounding(node.weight.reshape(groups, rows, -1), bias.reshape(groups, rows), moments)


def _to_bits(
    node: Node, rounding: OperatorRounding, bits: int, quant: TensorQuant, sweeps: int = SWEEPS
) -> QuantizedWeight:
    """The operator's weight at `bits`, for inputs that are stored as `quant`."""
    assert node.weight is not None

    def least(bias: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return least_scale(bias, quant.scale).reshape(bias.shape)

    codes, scales, bias = rounding.to(bits, least, sweeps)
    return QuantizedWeight(codes.reshape(node.weight.shape), scales.reshape(-1), bits, bias.reshape(-1))


def round_alone(
    graph: Graph,
    interpreter: Interpreter,
    plan: Plan,
    features: frozenset[str],
    samples: Sequence[Sample],
    wanted: Iterable[tuple[str, Precision]],
    *,
    progress: Progress | None = None,
) -> dict[tuple[str, Precision], QuantizedWeight]:
    """Weights of operators each of which alone is quantized: on the float network's inputs, stored at its bits.

    plan: ranges of all tensors. wanted: operator and integer precision.
    """
    precisions: dict[str, list[Precision]] = {}
    for name, precision in wanted:
        if not precision.is_float:
            precisions.setdefault(name, []).append(precision)
    floats = lower(graph, float_plan(graph, plan), features)
    interpreter.prepare(floats)
    wide = Lockstep(graph, interpreter, _held(samples, peak_bytes(graph, floats)), floats, "float")
    rng = np.random.default_rng(0)
    found: dict[tuple[str, Precision], QuantizedWeight] = {}
    nodes = [n for n in graph.weighted() if n.name in precisions]
    for i, node in enumerate(nodes):
        tensor = node.inputs[0]
        while not wide.holds(StoredValue(tensor, FLOAT_BITS)):
            wide.advance()
        real = _real_patches(node, wide, rng)
        for bits in sorted({p.activation_bits for p in precisions[node.name]}, reverse=True):
            quant = plan.quant(graph.quant_root(tensor), bits)
            moments = InputMoments.of(dequantize(quantize(real, quant), quant), real.copy())
            rounding = _rounding_of(node, moments)
            for precision in precisions[node.name]:
                if precision.activation_bits == bits:
                    weight = _to_bits(node, rounding, precision.weight_bits, quant, ALONE_SWEEPS)
                    found[node.name, precision] = weight
        if progress:
            progress(i + 1, len(nodes), "rounding weights")
    return found


def _real_patches(node: Node, wide: Lockstep, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    count = max(1, POSITIONS // len(wide))
    parts = [
        patches(node.conv, real, choose_positions(node.conv, count, rng))
        for real in wide.values(StoredValue(node.inputs[0], FLOAT_BITS))
    ]
    return np.concatenate(parts, axis=1)
