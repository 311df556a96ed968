"""torch's LSTM, GRU and RNN: kept whole by the export, and then a product over all steps and a loop for each layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.recurrent import Floats, emit_layer, emit_states, initial_of
from tvm_mpq.schema import RecurrentWorkload

_Cell = tuple[str, tuple[str, ...], tuple[int, ...]]

CELLS: dict[str, _Cell] = {  # cell, activations, place of each of ONNX's gates among torch's
    "lstm.input": ("lstm", ("sigmoid", "tanh", "tanh"), (0, 3, 1, 2)),
    "gru.input": ("gru", ("sigmoid", "tanh"), (1, 0, 2)),
    "rnn_tanh.input": ("rnn", ("tanh",), (0,)),
    "rnn_relu.input": ("rnn", ("relu",), (0,)),
}


def converters(program: Any, importer: Any) -> dict[str, Callable[[Any], Any]]:
    """Operator's name -> what reads a node of it, as TVM's importer wants them."""
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    tensors = {**program.state_dict, **program.constants}

    def weight(node: Any) -> Floats:
        if targets.get(node.name) not in tensors:
            raise UnsupportedModelError(f"weights of recurrent layers must be parameters (got {node.name!r})")
        return np.ascontiguousarray(tensors[targets[node.name]].detach().cpu().numpy(), np.float32)

    return {name: _converter(cell, importer, weight) for name, cell in CELLS.items()}


def _converter(cell: _Cell, importer: Any, weight: Callable[[Any], Floats]) -> Callable[[Any], Any]:
    return lambda node: _layers(cell, node, importer.retrieve_args(node), list(map(weight, node.args[2])))


def _layers(cell: _Cell, node: Any, args: Any, weights: list[Floats]) -> relax.Tuple:
    """output and, where anybody reads them, h_n and for an LSTM c_n of a module with one or more layers."""
    name, activations, order = cell
    data, start, _, has_biases, layers, _, _, both, batch_first = args
    states = list(start) if name == "lstm" else [start]
    builder = relax.BlockBuilder.current()
    if batch_first:
        data = builder.emit(relax.op.permute_dims(data, [1, 0, 2]))
    steps, batch, _ = (int(n) for n in data.ty.shape)
    directions = ("forward", "reverse") if both else ("forward",)
    each, count = 4 if has_biases else 2, len(directions)
    if len(weights) != layers * count * each:
        raise UnsupportedModelError("an LSTM with a projection (proj_size) is not supported; export it without")
    hidden = weights[1].shape[-1]
    wanted = any(user.args[1] for user in node.users)
    last: list[list[relax.Expr]] = []
    for layer in range(layers):
        held = [weights[(layer * count + d) * each :][:each] for d in range(count)]
        w, r = (np.stack([_ordered(part[i], order) for part in held]) for i in (0, 1))
        biases = np.zeros((count, 2, len(order), hidden), np.float32)
        if has_biases:
            biases = np.stack([[_ordered(part[i], order) for i in (2, 3)] for part in held]).reshape(biases.shape)
        state = _state(states, layer * count, (count, batch, hidden))
        work = RecurrentWorkload(
            *(name, steps, batch, hidden, directions, activations),
            initial=initial_of(state),
            emits_states=wanted,
            reset_after=name == "gru",
        )
        out = emit_layer(work, data, w, r, biases, state=state)
        if wanted:
            out, *ends = emit_states(work, out)
            last.append(ends)
        axes, shape = [0, 2, 1, 3], (steps, batch, count * hidden)
        if batch_first and layer == layers - 1:
            axes, shape = [2, 0, 1, 3], (batch, steps, count * hidden)
        data = builder.emit(relax.op.reshape(builder.emit(relax.op.permute_dims(out, axes)), shape))
    ends = [builder.emit(relax.op.concat(list(parts), axis=0)) for parts in zip(*last, strict=True)]
    return relax.Tuple([data, *ends])


def _state(states: list[Any], first: int, shape: tuple[int, ...]) -> relax.Expr:
    """[states, *shape] of the layer whose first direction is number `first`."""
    builder = relax.BlockBuilder.current()
    parts = []
    for state in states:
        own = builder.emit(relax.op.strided_slice(state, [0], [first], [first + shape[0]]))
        parts.append(builder.emit(relax.op.reshape(own, (1, *shape))))
    return parts[0] if len(parts) == 1 else builder.emit(relax.op.concat(parts, axis=0))


def _ordered(x: Floats, order: tuple[int, ...]) -> Floats:
    """The blocks of rows, one a gate, in ONNX's order."""
    blocks = np.split(x, len(order))
    return np.concatenate([blocks[place] for place in order])
