"""A whole plan by its definition: lowered steps evaluated in NumPy, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.lowering import FloatStep, KernelStep, ReshapeStep, Step, StoredValue
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload, ConvertWorkload, Pool2dWorkload

Array = npt.NDArray[Any]
FloatRule = Callable[[Node, list[Array]], Array]


def evaluate_step(graph: Graph, step: KernelStep, inputs: Sequence[Array]) -> Array:
    """One kernel's output, logical channels; inputs have their tensors' logical shapes."""
    request = step.kernel.request
    work = request.workload
    shapes: list[tuple[int, ...]] = [x.shape for x in inputs]
    if isinstance(work, Conv2dWorkload):  # linear layers come as [M, C] or [B, T, C]
        shapes[0] = (work.batch, work.in_height, work.in_width, work.in_channels)
        shapes[1:] = [(work.batch, work.out_height, work.out_width, work.out_channels)] * (len(inputs) - 1)
    elif isinstance(work, Pool2dWorkload):
        shapes[0] = (work.batch, work.in_height, work.in_width, work.channels)
    elif isinstance(work, ConvertWorkload) and not work.channels_first:
        shapes[0] = work.shape
    arrays = [x.reshape(s) for x, s in zip(inputs, shapes, strict=True)]
    result = evaluate(work, request.precision, request.out_bits, step.operands, arrays)
    return np.ascontiguousarray(result).reshape(graph.tensors[step.output.tensor].shape)


def walk(
    graph: Graph, steps: Sequence[Step], inputs: dict[str, Array], float_rule: FloatRule
) -> dict[StoredValue, Array]:
    """Every value of the network; float operators without a template are left to `float_rule`."""
    held: dict[StoredValue, Array] = {StoredValue(name, FLOAT_BITS): x for name, x in inputs.items()}
    for step in steps:
        if isinstance(step, KernelStep):
            held[step.output] = evaluate_step(graph, step, [held[v] for v in step.inputs])
        elif isinstance(step, ReshapeStep):
            held[step.output] = held[step.input].reshape(graph.tensors[step.output.tensor].shape)
        else:
            arrays = [held[StoredValue(t, FLOAT_BITS)] for t in step.node.inputs]
            held[StoredValue(step.node.output, FLOAT_BITS)] = float_rule(step.node, arrays)
    return held


def is_integer(steps: Sequence[Step]) -> bool:
    """Whether no float arithmetic happens but at boundaries."""
    return all(
        isinstance(s, ReshapeStep)
        or (isinstance(s, KernelStep) and (isinstance(s.kernel.request.workload, ConvertWorkload) or not _floats(s)))
        for s in steps
    )


def _floats(step: KernelStep) -> bool:
    return step.kernel.request.precision.is_float


def assert_steps_follow_the_definition(graph: Graph, steps: Sequence[Step], values: dict[StoredValue, Array]) -> None:
    """Each step's output against its definition on the very inputs it had: integers equal, floats closely.

    values: logical arrays of every tensor as the compiled kernels left them.
    """
    for step in steps:
        if isinstance(step, FloatStep):
            continue
        got = values[step.output]
        if isinstance(step, ReshapeStep):
            np.testing.assert_array_equal(got, values[step.input].reshape(got.shape), err_msg=step.node)
            continue
        wanted = evaluate_step(graph, step, [values[v] for v in step.inputs])
        if _floats(step):
            # A sum of n float products in another order differs by about eps * sqrt(n) of its largest terms.
            np.testing.assert_allclose(
                got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max() + 1e-6, err_msg=step.node
            )
        else:
            np.testing.assert_array_equal(got, wanted, err_msg=step.node)
