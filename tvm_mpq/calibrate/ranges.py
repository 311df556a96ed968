"""Calibration: run the float network on samples and turn what its tensors hold into ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from tvm_mpq.calibrate.observers import OUTPUT, Observer, check_method
from tvm_mpq.execute.interpreter import Interpreter, Sample
from tvm_mpq.kernels.registry import default_kernel
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.activations import apply
from tvm_mpq.numerics.recurrent import named_vectors
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.lowering import BYTE, KernelStep, Step, StoredValue
from tvm_mpq.schema import FLOAT_BITS, Precision, Progress, RecurrentWorkload, TensorQuant


def range_bits(graph: Graph, offered: Iterable[Precision] = ()) -> list[int]:
    """Bits of the ranges that a plan needs, most first: 8, and what the candidates and the `offered` precisions read.

    Of what is offered only some are candidates on the CPU at hand. A plan may still name the others: integers mean the
    same on every CPU, and another one may have fast code for them.
    """
    offered_bits = {p.activation_bits for p in offered if not p.is_float}
    return sorted({BYTE, *graph.activation_bits, *offered_bits}, reverse=True)


def calibrate(
    graph: Graph,
    interpreter: Interpreter,
    float_steps: Sequence[Step],
    samples: Sequence[Sample],
    *,
    bits: Sequence[int] | None = None,
    method: str = "mse",
    progress: Progress | None = None,
) -> dict[str, list[TensorQuant]]:
    """Ranges of every tensor that an integer kernel may touch, and of values before non-clamp activations.

    Parameters
    ----------
    float_steps
        The network lowered with every operator in fp32.
    samples
        One mapping from input name to float32 array per sample.
    bits
        The bit-widths wanted; the result has one TensorQuant for each. None: `range_bits(graph)`.
    method
        `minmax`, `percentile` or `mse`.

    Returns
    -------
    dict
        Tensor name (and `operator:pre`, and `operator:state` of recurrent layers) to its TensorQuants, as
        `Plan.tensors` wants them.

    Raises
    ------
    DataError
        If a tensor becomes NaN or infinite; the text names it.
    """
    check_method(method)
    bits = bits or range_bits(graph)
    pre_steps = _pre_activation_steps(graph, float_steps)
    interpreter.prepare([*float_steps, *pre_steps])
    by_results = method == OUTPUT
    observers = {n: Observer(n, gram_of_readers(graph, n) if by_results else None) for n in graph.integer_tensors()}
    layers = graph.states()
    observers |= {node.state: Observer(node.state) for node in layers}
    nodes = {node.name: node for node in graph.nodes}
    for step in pre_steps:
        activation = getattr(nodes[step.node.removesuffix(":pre")].workload, "activation", "none")
        observers[step.node] = Observer(step.node, read=partial(apply, activation))
    for i, sample in enumerate(samples):
        values = interpreter.run(float_steps, interpreter.load(sample), tag="base")
        for name in graph.integer_tensors():
            observers[name].see(values[StoredValue(name, FLOAT_BITS)].numpy())
        for node in layers:
            tensors = {t: values[StoredValue(t, FLOAT_BITS)].numpy() for t in (*node.inputs, node.output)}
            for held in states_of(node, tensors):
                observers[node.state].see(held)
        for step in pre_steps:
            result = interpreter.run([step], values, tag="pre")
            observers[step.node].see(result[step.output].numpy())
        if progress:
            progress(i + 1, len(samples), "calibrating")
    return {name: [observer.quant(b, method) for b in bits] for name, observer in observers.items()}


def states_of(node: Node, values: Mapping[str, npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
    """Every h of a recurrent layer: of all steps, and before the first where that is not zero. values: its tensors."""
    w, vectors = node.workload, node.bias
    assert isinstance(w, RecurrentWorkload) and vectors is not None
    yield values[node.output][: w.steps]
    if w.initial == "given":
        yield values[node.inputs[1]][0]
    elif w.initial == "constant":
        yield named_vectors(w, vectors)["state"][0]


def gram_of_readers(graph: Graph, tensor: str) -> npt.NDArray[np.float64] | None:
    """float64[C, C]: sum of w w^T over all weights that read a position of the tensor, None where there are none.

    Errors of different positions under one kernel are taken for independent of each other.
    """
    channels = graph.tensors[tensor].shape[-1]
    found = np.zeros((channels, channels))
    for node in graph.weighted():
        if graph.quant_root(node.inputs[0]) != tensor or node.conv.in_channels != channels:
            continue
        assert node.weight is not None
        groups, width = node.conv.groups, channels // node.conv.groups
        for g, part in enumerate(np.split(node.weight.astype(np.float64), groups)):
            rows = part.reshape(-1, width)
            found[g * width : (g + 1) * width, g * width : (g + 1) * width] += rows.T @ rows
    return found if found.any() else None


def _pre_activation_steps(graph: Graph, float_steps: Sequence[Step]) -> list[KernelStep]:
    """The float kernels of operators with a non-clamp activation, once more without it."""
    nodes = {n.name: n for n in graph.nodes}
    steps = []
    for step in float_steps:
        if not isinstance(step, KernelStep) or step.node not in nodes or not _has_table(nodes[step.node]):
            continue
        request = step.kernel.request
        bare = dataclasses.replace(request.workload, activation="none")  # type: ignore[call-arg]
        kernel = default_kernel(dataclasses.replace(request, workload=bare))
        steps.append(KernelStep(f"{step.node}:pre", kernel, step.operands, step.inputs, step.output))
    return steps


def _has_table(node: Node) -> bool:
    activation = getattr(node.workload, "activation", "none")
    return node.kind != "activation" and not is_clamp(activation)
