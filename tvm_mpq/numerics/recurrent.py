"""The definition of recurrent layers: what `schema.RecurrentWorkload` computes, step by step in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.activations import apply
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import RecurrentWorkload

_Floats = npt.NDArray[Any]


def weight_and_vectors(operands: Operands) -> tuple[FloatArray, FloatArray]:
    """Both arrays of a layer. Raises InvalidValueError where one is missing."""
    if operands.weight is None or operands.bias is None:
        raise InvalidValueError("a recurrent layer needs a weight and its vectors (got none)")
    return operands.weight, operands.bias


def named_vectors(w: RecurrentWorkload, vectors: FloatArray) -> dict[str, FloatArray]:
    """The parts of the vectors, as `RecurrentWorkload.parts` names and shapes them."""
    return {name: vectors[at : at + math.prod(shape)].reshape(shape) for name, (at, shape) in w.parts.items()}


def evaluate_recurrent(
    w: RecurrentWorkload, gates: FloatArray, state: FloatArray | None, weight: FloatArray, vectors: FloatArray
) -> FloatArray:
    """float32[w.out_shape]; operands as the workload describes them. state: where `initial` is given."""
    out = np.zeros(w.out_shape, np.float32)
    given = named_vectors(w, vectors)
    start = state if w.initial == "given" else given.get("state")
    for d, direction in enumerate(w.directions):
        for n in range(w.batch):
            length = w.lengths[n] if w.lengths else w.steps
            held = np.zeros((w.states, w.hidden)) if start is None else start[:, d, n].astype(np.float64)
            for s in range(length):
                t = s if direction == "forward" else length - 1 - s
                x = gates[t, n].reshape(len(w.directions), w.gates, w.hidden)[d].astype(np.float64)
                r = weight[d].reshape(w.gates, w.hidden, w.hidden).astype(np.float64)
                held = _CELLS[w.cell](w, d, x, r, held, given)
                out[t, d, n] = held[0]
            if w.emits_states:
                out[w.steps :, d, n] = held
    return out


def _act(w: RecurrentWorkload, place: int, x: _Floats) -> _Floats:
    return apply(w.activations[place], _bounded(x, w.clip)).astype(np.float64)


def _bounded(x: _Floats, bound: float) -> _Floats:
    return np.clip(x, -bound, bound) if bound else x


def _lstm(w: RecurrentWorkload, d: int, x: _Floats, r: _Floats, held: _Floats, given: dict[str, FloatArray]) -> _Floats:
    h, c = held
    i, o, f, z = x + r @ h
    peep_i, peep_o, peep_f = given["peepholes"][d] if w.peepholes else np.zeros(3)
    i = _act(w, 0, i + peep_i * c)
    f = 1 - i if w.coupled else _act(w, 0, f + peep_f * c)
    c = _bounded(f * c + i * _act(w, 1, z), w.cell_clip)
    o = _act(w, 0, o + peep_o * c)
    return np.stack([o * apply(w.activations[2], c), c])


def _gru(w: RecurrentWorkload, d: int, x: _Floats, r: _Floats, held: _Floats, given: dict[str, FloatArray]) -> _Floats:
    (h,) = held
    z, reset = (_act(w, 0, x[g] + r[g] @ h) for g in (0, 1))
    product = reset * (r[2] @ h + given["reset_bias"][d]) if w.reset_after else r[2] @ (reset * h)
    new = _act(w, 1, x[2] + product)
    return np.stack([(1 - z) * new + z * h])


def _rnn(w: RecurrentWorkload, d: int, x: _Floats, r: _Floats, held: _Floats, given: dict[str, FloatArray]) -> _Floats:
    return np.stack([_act(w, 0, x[0] + r[0] @ held[0])])


_CELLS = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}
