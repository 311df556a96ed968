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

from tvm_mpq.calibrate.float_side import FloatSide, FloatWalk
from tvm_mpq.calibrate.lockstep import Lockstep, peak_bytes
from tvm_mpq.calibrate.patches import patches
from tvm_mpq.calibrate.sensitivity import float_plan
from tvm_mpq.execute.interpreter import Interpreter, Sample
from tvm_mpq.numerics.affine import dequantize_codes, quantize
from tvm_mpq.numerics.conv import least_scale
from tvm_mpq.numerics.output_rounding import SWEEPS
from tvm_mpq.numerics.rounding import InputMoments, OperatorRounding
from tvm_mpq.numerics.weight_codes import QuantizedWeight, WeightCodes, WeightKey
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.lowering import KernelStep, Step, lower
from tvm_mpq.schema import Plan, Precision, Progress, TensorQuant

NEAREST, GPTQ, ADAROUND = "nearest", "gptq", "adaround"

ROUNDINGS = (NEAREST, GPTQ, ADAROUND)
"""How weights are rounded: each alone, to their operator's outputs on calibration data, or from there on learned."""

ALONE_SWEEPS = 1
"""Of coordinate descent where operators are only tried: each is, at every precision."""

MEMORY_BYTES = 2 << 30
"""What the tensors of all samples may take together: they are walked over at once."""


def float_side(graph: Graph, plan: Plan, features: frozenset[str], samples: Sequence[Sample]) -> FloatSide:
    """What the roundings of all plans of a network share.

    samples: one mapping from input name to float32 array each; of those, as many as `MEMORY_BYTES` hold twice.
    """
    steps = lower(graph, float_plan(graph, plan), features)
    return FloatSide(graph, steps, _held(samples, 2 * peak_bytes(graph, steps)))


def round_plan(
    graph: Graph,
    interpreter: Interpreter,
    plan: Plan,
    features: frozenset[str],
    wide: FloatSide,
    *,
    kernels: Callable[[Iterable[Step]], list[Step]] = list,
    progress: Progress | None = None,
) -> WeightCodes:
    """Codes, scales and biases of every integer operator of the plan.

    Parameters
    ----------
    wide
        The float network on calibration samples, as `float_side` gives it.
    kernels
        What runs the steps: they themselves, or `emulated_on_int8`.

    Returns
    -------
    WeightCodes
        One entry for each integer operator, under its weight bits.
    """
    nodes = {n.name: n for n in graph.weighted()}
    steps = kernels(lower(graph, plan, features))
    interpreter.prepare(steps)
    mixed = Lockstep(graph, interpreter, wide.samples, steps, "rounded")
    walk = wide.walk(interpreter)
    found: dict[WeightKey, QuantizedWeight] = {}
    for i, step in enumerate(steps):
        changed: Step | None = None
        if isinstance(step, KernelStep) and step.node in nodes and not step.kernel.request.precision.is_float:
            node = nodes[step.node]
            weight = rounded_operator(node, step, _moments_of(node, step, mixed, wide, walk))
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


def _moments_of(node: Node, step: KernelStep, mixed: Lockstep, wide: FloatSide, walk: FloatWalk) -> InputMoments:
    """Of what the operator's weights meet in the network under the plan, beside what they meet in the float network."""
    quant = step.operands.inputs[0]
    assert quant is not None, f"{step.node} is an integer operator"
    integers = patches(node.conv, list(mixed.values(step.inputs[0])), wide.positions(node), quant.zero_point)
    return InputMoments.of(dequantize_codes(integers, quant), walk.inputs(node))


def rounded_operator(node: Node, step: KernelStep, moments: InputMoments) -> QuantizedWeight:
    """The weight of an integer operator, rounded to its outputs on inputs of these moments."""
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
    wide: FloatSide,
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
    walk = wide.walk(interpreter)
    found: dict[tuple[str, Precision], QuantizedWeight] = {}
    nodes = [n for n in graph.weighted() if n.name in precisions]
    for i, node in enumerate(nodes):
        real = walk.inputs(node)
        for bits in sorted({p.activation_bits for p in precisions[node.name]}, reverse=True):
            quant = plan.quant(graph.quant_root(node.inputs[0]), bits)
            rounding = _rounding_of(node, InputMoments.of(dequantize_codes(quantize(real, quant), quant), real))
            for precision in precisions[node.name]:
                if precision.activation_bits == bits:
                    weight = _to_bits(node, rounding, precision.weight_bits, quant, ALONE_SWEEPS)
                    found[node.name, precision] = weight
        if progress:
            progress(i + 1, len(nodes), "rounding weights")
    return found
