"""ONNX's LSTM, GRU and RNN: a product over all time steps and a loop over them (see `recurrent`).

Lengths of sequences and weights must be constants; initial states may be inputs. HardSigmoid(x) = max(0, min(1, alpha *
x + beta)) of gates becomes a clamp: weights and biases take alpha and beta. Other activations beyond those that
`recurrent_loops.ACTIVATIONS` knows are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.recurrent import Floats, emit_layer, emit_states, initial_of
from tvm_mpq.schema import RecurrentWorkload

_DIRECTIONS = {"forward": ("forward",), "reverse": ("reverse",), "bidirectional": ("forward", "reverse")}
_DEFAULTS = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}
_NAMES = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "leakyrelu": "leaky_relu",
    "hardsigmoid": "clip:0.0:1.0",
}
_APPLIED = {"lstm": (0, 0, 0, 1), "gru": (0, 0, 1), "rnn": (0,)}
"""Place of each gate's activation, gates in ONNX's order."""
_HARD = (0.2, 0.5)  # ONNX's default alpha and beta of HardSigmoid
_LENGTHS = 4  # place of sequence_lens among the inputs
_LEAKY_ALPHA = 0.01  # ONNX's default of LeakyRelu


def without_unused_outputs(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> None:
    """In place: last states that nobody reads are not asked for."""
    nodes = list(nodes)
    read = {name for node in nodes for name in node.input} | set(outputs)
    for node in nodes:
        while node.op_type in ("LSTM", "GRU", "RNN") and len(node.output) > 1 and node.output[-1] not in read:
            del node.output[-1]


def overlooked_by_reference(nodes: Iterable[onnx.NodeProto]) -> str | None:
    """What the ONNX package's own evaluator reads past in a recurrent layer; None where it computes what is meant."""
    for node in nodes:
        if node.op_type not in ("LSTM", "GRU", "RNN"):
            continue
        if len(node.input) > _LENGTHS and node.input[_LENGTHS]:
            return f"sequence_lens of {node.op_type}"
        for attribute in node.attribute:
            if attribute.name in ("clip", "activations") or (attribute.name == "input_forget" and attribute.i):
                return f"{attribute.name} of {node.op_type}"
    return None


def lstm(inputs: list[Any], attrs: dict[str, Any]) -> relax.Expr:
    """Y, Y_h and Y_c of an LSTM."""
    return _layer("lstm", inputs, attrs)


def gru(inputs: list[Any], attrs: dict[str, Any]) -> relax.Expr:
    """Y and Y_h of a GRU."""
    return _layer("gru", inputs, attrs)


def rnn(inputs: list[Any], attrs: dict[str, Any]) -> relax.Expr:
    """Y and Y_h of a plain RNN."""
    return _layer("rnn", inputs, attrs)


def _layer(cell: str, inputs: list[Any], attrs: dict[str, Any]) -> relax.Expr:
    operands: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
    data, weight, recurrence, bias, lengths = operands[:5]
    states, peepholes = operands[5:7] if cell == "lstm" else operands[5:6], operands[7]
    builder = relax.BlockBuilder.current()
    batch_first = bool(attrs.get("layout", 0))
    if batch_first:
        data, states = _swapped(data), [_swapped(x) for x in states]
    steps, batch, _ = (int(n) for n in data.ty.shape)
    w, r = (_constant(x, name) for x, name in ((weight, "W"), (recurrence, "R")))
    hidden = r.shape[-1]
    directions = _directions(attrs)
    given = _initial(states, (len(directions), batch, hidden))
    activations, lines = _activations(cell, len(directions), attrs)
    work = RecurrentWorkload(
        cell,
        steps,
        batch,
        hidden,
        directions,
        activations,
        initial=initial_of(given),
        emits_states=attrs["tvm_custom"]["num_outputs"] > 1,
        lengths=_lengths(lengths, steps),
        peepholes=peepholes is not None,
        coupled=bool(attrs.get("input_forget", 0)),
        reset_after=bool(attrs.get("linear_before_reset", 0)),
        clip=float(attrs.get("clip", 0.0)),
    )
    biases = np.zeros((len(directions), 2, work.gates, hidden), np.float32)
    if bias is not None:
        biases = _constant(bias, "B").reshape(biases.shape)
    peep = None if peepholes is None else _constant(peepholes, "P")
    if any(line is not None for line in lines):
        if work.clip:
            raise UnsupportedModelError("its clip together with HardSigmoid is not supported; export it without clip")
        w, r, biases, peep = _with_lines([lines[place] for place in _APPLIED[cell]], w, r, biases, peep)
    out = emit_layer(work, data, w, r, biases, state=given, peepholes=peep)
    results = emit_states(work, out) if work.emits_states else [out]
    if batch_first:
        first, *others = results
        results = [relax.op.permute_dims(first, [2, 0, 1, 3]), *(relax.op.permute_dims(x, [1, 0, 2]) for x in others)]
        results = [builder.emit(x) for x in results]
    return relax.Tuple(results) if work.emits_states else results[0]


def _swapped(x: Any) -> Any:
    """The tensor with its first two axes exchanged; None for none."""
    if x is None:
        return None
    if isinstance(x, tvm.ir.GenericConst):
        return relax.const(np.ascontiguousarray(x.value.numpy().swapaxes(0, 1)))
    axes = [1, 0, *range(2, len(x.ty.shape))]
    return relax.BlockBuilder.current().emit(relax.op.permute_dims(x, axes))


def _constant(x: Any, name: str) -> Floats:
    if not isinstance(x, tvm.ir.GenericConst):
        raise UnsupportedModelError(f"its {name} must be a constant (got a computed tensor); export it with weights")
    return np.asarray(x.value.numpy(), np.float32)


def _directions(attrs: dict[str, Any]) -> tuple[str, ...]:
    name = _text(attrs.get("direction", "forward"))
    if name not in _DIRECTIONS:
        raise UnsupportedModelError(f"its direction must be one of {', '.join(_DIRECTIONS)} (got {name!r})")
    return _DIRECTIONS[name]


def _initial(states: list[Any], shape: tuple[int, ...]) -> Any:
    """None for zeros, an array [states, ...] for other constants, else an expression."""
    if not any(isinstance(x, relax.Var) for x in states):
        arrays = [np.zeros(shape, np.float32) if x is None else _constant(x, "initial state") for x in states]
        joined = np.stack(arrays)
        return joined if joined.any() else None
    builder = relax.BlockBuilder.current()
    given = [relax.const(np.zeros(shape, np.float32)) if x is None else x for x in states]
    parts = [builder.emit(relax.op.reshape(x, (1, *shape))) for x in given]
    return parts[0] if len(parts) == 1 else builder.emit(relax.op.concat(parts, axis=0))


def _lengths(lengths: Any, steps: int) -> tuple[int, ...]:
    """Of each sequence; empty where all are whole."""
    if lengths is None:
        return ()
    if not isinstance(lengths, tvm.ir.GenericConst):
        raise UnsupportedModelError(
            "its sequence_lens must be constant (got an input): fix the lengths, or leave them out"
        )
    found = tuple(int(n) for n in lengths.value.numpy().reshape(-1))
    if not all(0 <= n <= steps for n in found):
        raise UnsupportedModelError(f"its sequence_lens must be within 0..{steps} (got {found})")
    return () if all(n == steps for n in found) else found


_Line = tuple[float, float]
"""alpha and beta of alpha * x + beta."""


def _activations(cell: str, directions: int, attrs: dict[str, Any]) -> tuple[tuple[str, ...], list[_Line | None]]:
    """As schema names them, and which of them read a line of their argument; both directions must have the same."""
    names = [_text(name) for name in attrs.get("activations") or _DEFAULTS[cell] * directions]
    count = len(_DEFAULTS[cell])
    alphas, betas = (list(attrs.get(f"activation_{n}", ())) for n in ("alpha", "beta"))
    found: list[str] = []
    lines: list[_Line | None] = []
    for name in names:
        known = _NAMES.get(name.lower())
        if known is None:
            raise UnsupportedModelError(f"its activations must be among {', '.join(_NAMES)} (got {name})")
        if known == "leaky_relu":
            known += f":{float(alphas.pop(0) if alphas else _LEAKY_ALPHA)}"
        line = None
        if name.lower() == "hardsigmoid":
            line = (float(alphas.pop(0) if alphas else _HARD[0]), float(betas.pop(0) if betas else _HARD[1]))
        found.append(known)
        lines.append(line)
    both = list(zip(found, lines, strict=True))
    if len(names) != count * directions or both[:count] != both[-count:]:
        raise UnsupportedModelError(f"its {count} activations must be the same in each direction (got {names})")
    if cell == "lstm" and lines[count - 1] is not None:
        raise UnsupportedModelError("HardSigmoid of its state (the third activation) is not supported; use Tanh there")
    return tuple(found[:count]), lines[:count]


def _with_lines(
    lines: list[_Line | None], weight: Floats, recurrence: Floats, biases: Floats, peepholes: Floats | None
) -> tuple[Floats, Floats, Floats, Floats | None]:
    """Operands of a layer whose gates' arguments are those lines of what they were; `lines`, of each gate."""
    alpha, beta = np.array([line or (1.0, 0.0) for line in lines], np.float32).T
    rows = np.repeat(alpha, weight.shape[1] // len(lines))[:, None]
    biases = biases * alpha[:, None]
    biases[:, 0] += beta[:, None]
    if peepholes is not None:  # of the first three gates
        peepholes = peepholes * np.repeat(alpha[:3], weight.shape[1] // len(lines))
    return weight * rows, recurrence * rows, biases, peepholes


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
