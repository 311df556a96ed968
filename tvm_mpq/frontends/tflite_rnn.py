"""TFLite's LSTMs over sequences, of one or two directions: a product over all steps and a loop (see `recurrent`).

Meanings are those of LiteRT's kernels. A layer without input gate has i = 1 - f, which is the sigmoid of what enters f
with its sign turned, so that it becomes one with an input gate.

A bound of the cell state (`cell_clip`; converters write 10 into every layer) is left out where no state can reach it:
each step adds at most 1 to its size, and without input gate it never exceeds 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tflite
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.recurrent import Floats, emit_layer
from tvm_mpq.frontends.tflite_places import options_of
from tvm_mpq.schema import RecurrentWorkload

_GATES = (0, 3, 1, 2)
"""Places of ONNX's gates (input, output, forget, cell) among TFLite's (input, forget, cell, output)."""
_FORWARD = {"weight": 1, "recurrence": 5, "peepholes": 9, "bias": 12, "projection": 16}
"""Place among an operator's inputs of the first tensor of each kind; the other direction's are 17 behind."""
_BEHIND = 17
_COUNTS = {"peepholes": 3, "projection": 2}
_STATES, _BOTH_STATES, _AUXILIARY = (18, 19), (35, 36, 37, 38), range(39, 48)
_NORMS = range(20, 24)


def lstm(importer: Any, op: Any) -> Any:
    """UNIDIRECTIONAL_SEQUENCE_LSTM: h of all steps, time first or batch first as its input."""
    options = options_of(op, tflite.UnidirectionalSequenceLSTMOptions)
    places = _Places(importer, op)
    if places.any(_NORMS):
        raise UnsupportedModelError("layer normalization within an LSTM is not supported; convert the model without")
    if options is not None and options.DiagonalRecurrentTensors():
        raise UnsupportedModelError("diagonal recurrent weights are not supported; convert the model without")
    places.check_states(_STATES)
    (out,) = _layer(importer, places, options, ("forward",), merged=True)
    return out


def bidirectional_lstm(importer: Any, op: Any) -> Any:
    """BIDIRECTIONAL_SEQUENCE_LSTM: both directions behind each other in the last axis, or each a result of its own."""
    options = options_of(op, tflite.BidirectionalSequenceLSTMOptions)
    places = _Places(importer, op)
    if places.any(_AUXILIARY):
        raise UnsupportedModelError("auxiliary inputs of an LSTM are not supported; convert the model without")
    places.check_states(_BOTH_STATES)
    merged = options is not None and options.MergeOutputs()
    outs = _layer(importer, places, options, ("forward", "reverse"), merged=merged)
    return outs[0] if merged else relax.BlockBuilder.current().emit(relax.Tuple(outs))


class _Places:
    """Inputs of an operator, by their places; those that it leaves out are absent."""

    def __init__(self, importer: Any, op: Any) -> None:
        self._importer = importer
        self.indices = [int(i) for i in op.InputsAsNumpy()]

    def has(self, place: int) -> bool:
        return place < len(self.indices) and self.indices[place] >= 0

    def any(self, places: Sequence[int]) -> bool:
        return any(map(self.has, places))

    def check_states(self, places: Sequence[int]) -> None:
        """Variables start at zero. Any other state would be an input, which LiteRT does not take either."""
        for place in places:
            if not self.has(place) or not self._importer.subgraph.Tensors(self.indices[place]).IsVariable():
                raise UnsupportedModelError(f"its state (input {place}) must be a variable; convert the model again")

    def constant(self, place: int) -> Floats:
        index, constants = self.indices[place], self._importer.constants
        if not constants.has(index):
            raise UnsupportedModelError(f"its weights must be constants (input {place} is computed)")
        tensor = constants.source(index)
        quantization = tensor.Quantization()
        scaled = quantization is not None and quantization.ScaleLength()
        if tensor.Type() not in (tflite.TensorType.FLOAT32, tflite.TensorType.FLOAT16) and not scaled:
            raise UnsupportedModelError(f"integers without a scale (input {place}) are not supported")
        return np.asarray(constants.reals(index), np.float32)

    def cell(self, behind: int) -> tuple[Floats, Floats, Floats]:
        """W [4 * hidden, inputs], R [4 * hidden, hidden] and bias [4, hidden] of a direction, gates in ONNX's order."""
        for kind, count in _COUNTS.items():
            first = _FORWARD[kind] + behind
            if self.any(range(first, first + count)):
                raise UnsupportedModelError(f"an LSTM with {kind} is not supported; convert the model without")
        found = []
        for kind in ("weight", "recurrence", "bias"):
            first = _FORWARD[kind] + behind
            others = [self.constant(first + i) for i in (1, 2, 3)]
            gates = [self.constant(first) if self.has(first) else -others[0], *others]
            found.append([gates[place] for place in _GATES])
        weight, recurrence, bias = found
        return np.concatenate(weight), np.concatenate(recurrence), np.stack(bias)

    def coupled(self, behind: int) -> bool:
        return not self.has(_FORWARD["weight"] + behind)


def _layer(
    importer: Any, places: _Places, options: Any, directions: tuple[str, ...], *, merged: bool
) -> list[relax.Expr]:
    """One result, or one of each direction."""
    activation = tflite.ActivationFunctionType.TANH if options is None else options.FusedActivationFunction()
    if activation != tflite.ActivationFunctionType.TANH:
        raise UnsupportedModelError(f"an LSTM's activation must be TANH (got number {activation} of the schema)")
    if options is not None and options.ProjClip():
        raise UnsupportedModelError("a bound of the projection (proj_clip) is not supported; convert the model without")
    data = importer.get_tensor_expr(importer.get_tensors([places.indices[0]])[0])
    time_first = options is not None and options.TimeMajor()
    builder = relax.BlockBuilder.current()
    data = builder.emit(data if time_first else relax.op.permute_dims(data, [1, 0, 2]))
    steps, batch, _ = (int(n) for n in data.ty.shape)
    cells = [places.cell(_BEHIND * i) for i in range(len(directions))]
    if len({weight.shape for weight, _, _ in cells}) > 1:
        raise UnsupportedModelError("directions of different sizes are not supported; write two layers")
    weight, recurrence = (np.stack([cell[i] for cell in cells]) for i in (0, 1))
    biases = np.stack([np.stack([bias, np.zeros_like(bias)]) for _, _, bias in cells])
    hidden, count = recurrence.shape[-1], len(directions)
    largest = max(1 if places.coupled(_BEHIND * i) else steps for i in range(count))
    clip = 0.0 if options is None else float(options.CellClip())
    reached = clip if 0 < clip < largest else 0.0
    work = RecurrentWorkload("lstm", steps, batch, hidden, directions, ("sigmoid", "tanh", "tanh"), cell_clip=reached)
    out = emit_layer(work, data, weight, recurrence, biases)
    axes, sizes = ([0, 2, 1, 3], (steps, batch)) if time_first else ([2, 0, 1, 3], (batch, steps))
    joined = relax.op.reshape(builder.emit(relax.op.permute_dims(out, axes)), (*sizes, count * hidden))
    if merged or count == 1:
        return [joined]
    parts = builder.emit(relax.op.split(builder.emit(joined), count, axis=-1))
    return [builder.emit(relax.TupleGetItem(parts, i)) for i in range(count)]
