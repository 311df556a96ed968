"""Recurrent layers in Relax, which has no operator for them: one product over all time steps, then one loop nest.

    lv = matmul(x, W^T) + bias          an ordinary linear layer, quantizable like any other
    out = call_tir(recurrent, lv, ...)  the loop over the steps

The loop nest is plain TensorIR (`recurrent_loops`), so that the module runs as it stands, and says by an attribute
which `schema.RecurrentWorkload` it computes. Normalize makes an operator of it, with code from the kernel table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from tvm_mpq.frontends.recurrent_loops import loop_nest
from tvm_mpq.schema import RecurrentWorkload

Floats = npt.NDArray[np.float32]


def emit_layer(
    w: RecurrentWorkload,
    data: relax.Expr,
    weight: Floats,
    recurrence: Floats,
    biases: Floats,
    *,
    state: Any = None,
    peepholes: Floats | None = None,
) -> relax.Var:
    """The variable of a layer's result, as `w` describes it, in the function that is being built.

    Parameters
    ----------
    data : float32[steps, batch, inputs]
    weight, recurrence : float32[directions, gates * hidden, inputs or hidden]
        W and R, gates in ONNX's order.
    biases : float32[directions, 2, gates, hidden]
        What is added to the product with W, and to that with R.
    state
        `initial_of` tells `w.initial` from it: None, an array or an expression of shape `w.state_shape`.
    peepholes : float32[directions, 3 * hidden]
    """
    builder = relax.BlockBuilder.current()
    summed, parts = biases.sum(axis=1), {}
    if w.reset_after:
        parts["reset_bias"] = biases[:, 1, 2]
        summed[:, 2] = biases[:, 0, 2]
    if peepholes is not None:
        parts["peepholes"] = peepholes
    if w.initial == "constant":
        parts["state"] = state
    vectors = np.zeros(w.vectors_size, np.float32)
    for name, (at, shape) in w.parts.items():
        vectors[at : at + int(np.prod(shape))] = parts[name].reshape(-1)
    matrix = np.ascontiguousarray(weight.reshape(-1, weight.shape[-1]).T)
    product = builder.emit(relax.op.matmul(data, relax.const(matrix)))
    gates = builder.emit(relax.op.add(product, relax.const(summed.reshape(-1))))
    return emit_loop(w, gates, state if w.initial == "given" else None, recurrence, vectors)


def initial_of(state: Any) -> str:
    """`RecurrentWorkload.initial` of a state: None, an array, or an expression."""
    if state is None:
        return "zero"
    return "constant" if isinstance(state, np.ndarray) else "given"


def emit_loop(
    w: RecurrentWorkload, gates: relax.Expr, state: relax.Expr | None, weight: Floats, vectors: Floats
) -> relax.Var:
    """The loop over the steps alone; operands as `w` describes them. Layers of equal workload share a function."""
    builder = relax.BlockBuilder.current()
    args = [gates, *([] if state is None else [state]), relax.const(weight), relax.const(vectors)]
    function = builder.add_func(loop_nest(w).without_attr("global_symbol"), "recurrent")  # others may be named so
    return builder.emit(relax.call_tir(function, args, relax.TensorType(w.out_shape, "float32")))


def emit_states(w: RecurrentWorkload, out: relax.Var) -> list[relax.Expr]:
    """Of the result of a layer that emits states: h of all steps, then each last state [directions, batch, hidden]."""
    builder = relax.BlockBuilder.current()
    results = [builder.emit(relax.op.strided_slice(out, [0], [0], [w.steps]))]
    for place in range(w.steps, w.steps + w.states):
        last = builder.emit(relax.op.strided_slice(out, [0], [place], [place + 1]))
        results.append(builder.emit(relax.op.squeeze(last, [0])))
    return results
