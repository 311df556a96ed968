"""Recurrent layers whose products with R are of bytes; everything else is float32 with every rounding stated.

Inputs, states and results are float32. For its products alone, h becomes integers each step, by one range for all
steps: q = clamp(rint(h * (1 / scale)) + zero point). A sum over k of R[j, k] * (q[k] - zero point) is exact in int32,
and enters the gate as fma(sum, scale of row j * scale of h, what the inputs gave).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import affine, fused_activations
from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.fma import fma32
from tvm_mpq.numerics.fused_activations import larger, smaller
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.recurrent import named_vectors, weight_and_vectors
from tvm_mpq.numerics.requantize import multiplier
from tvm_mpq.schema import RecurrentWorkload, TensorQuant

_Integers = npt.NDArray[np.int8]


@dataclass(frozen=True)
class RecurrentConstants:
    """weight int8[directions, gates * hidden, hidden]; factor float32[directions, gates * hidden], a step of a sum in
    what the gates add up; per_step float32[]: steps of h in 1; state: the range of h."""

    weight: _Integers
    factor: FloatArray
    per_step: FloatArray
    state: TensorQuant
    vectors: FloatArray


def longest_sum(activation_bits: int) -> int:
    """How many products of a weight of 8 bits and a state int32 holds.

    >>> longest_sum(8)
    66311
    """
    return int((2**31 - 1) // (127 * (2**activation_bits - 1)))


def recurrent_constants(w: RecurrentWorkload, operands: Operands) -> RecurrentConstants:
    """Raises InvalidValueError when the weight, its vectors or the range of h is missing."""
    weight, vectors = weight_and_vectors(operands)
    if operands.state is None:
        raise InvalidValueError("a recurrent layer of integer products needs the range of its state, h (got none)")
    codes, scale = affine.quantize_weight(weight.reshape(-1, w.hidden), 8)
    rows = (len(w.directions), w.gates * w.hidden)
    return RecurrentConstants(
        weight=codes.reshape(w.weight_shape),
        factor=multiplier(scale, operands.state.scale).reshape(rows),
        per_step=multiplier(output=operands.state.scale),
        state=operands.state,
        vectors=np.asarray(vectors, np.float32),
    )


def evaluate_recurrent_bytes(
    w: RecurrentWorkload, gates: FloatArray, state: FloatArray | None, operands: Operands
) -> FloatArray:
    """float32[w.out_shape], as a kernel must give it; operands as the workload describes them.

    Raises InvalidValueError when the weight, its vectors or the range of h is missing.
    """
    given = recurrent_constants(w, operands)
    parts = named_vectors(w, given.vectors)
    start = state if w.initial == "given" else parts.get("state")
    out = np.zeros(w.out_shape, np.float32)
    lengths = np.array(w.lengths or (w.steps,) * w.batch)
    x = gates.reshape(w.steps, w.batch, len(w.directions), w.gates, w.hidden)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for d, direction in enumerate(w.directions):
            cell = _Cell(w, d, given, parts)
            held = np.zeros((w.states, w.batch, w.hidden), np.float32) if start is None else start[:, d]
            for s in range(w.steps):
                n = np.flatnonzero(s < lengths)
                t = np.full(len(n), s) if direction == "forward" else lengths[n] - 1 - s
                held = held.copy()
                held[:, n] = cell.step(x[t, n, d], held[:, n])
                out[t, d, n] = held[0, n]
            if w.emits_states:
                out[w.steps :, d] = held
    return out


class _Cell:
    """One direction of a layer. Arrays of a step: x [n, gate, hidden], h and c [n, hidden]."""

    def __init__(self, w: RecurrentWorkload, d: int, given: RecurrentConstants, parts: dict[str, FloatArray]) -> None:
        self.w, self.given = w, given
        self.weight = given.weight[d].astype(np.float64)  # in which sums of integers below 2^53 are exact
        self.factor = given.factor[d].reshape(w.gates, w.hidden)
        self.peepholes = parts["peepholes"][d] if w.peepholes else None
        self.reset_bias = parts["reset_bias"][d] if w.reset_after else None

    def step(self, x: FloatArray, held: FloatArray) -> FloatArray:
        """The states [states, n, hidden] behind a step."""
        if self.w.cell == "lstm":
            return self._lstm(x, *held)
        h = self._gru(x, held[0]) if self.w.cell == "gru" else self._act(0, self._sum(0, held[0], x[:, 0]))
        return h[None]

    def _sum(self, gate: int, h: FloatArray, start: FloatArray) -> FloatArray:
        """start + the product of the gate's R with h."""
        low, high = (end - self.given.state.zero_point for end in affine.unsigned_range(self.given.state.bits))
        steps = h * self.given.per_step
        whole = np.rint(np.fmin(np.fmax(steps, np.float32(low)), np.float32(high))).astype(np.float64)
        rows = slice(gate * self.w.hidden, (gate + 1) * self.w.hidden)
        return fma32((whole @ self.weight[rows].T).astype(np.int32).astype(np.float32), self.factor[gate], start)

    def _act(self, place: int, x: FloatArray, *, clip: bool = True) -> FloatArray:
        return fused_activations.apply(self.w.activations[place], _bounded(x, self.w.clip) if clip else x)

    def _peep(self, x: FloatArray, place: int, c: FloatArray) -> FloatArray:
        return x if self.peepholes is None else fma32(self.peepholes[place], c, x)

    def _lstm(self, x: FloatArray, h: FloatArray, c: FloatArray) -> FloatArray:
        i, o, f, z = (self._sum(gate, h, x[:, gate]) for gate in range(4))
        i = self._act(0, self._peep(i, 0, c))
        f = np.float32(1) - i if self.w.coupled else self._act(0, self._peep(f, 2, c))
        c = _bounded(fma32(f, c, i * self._act(1, z)), self.w.cell_clip)
        o = self._act(0, self._peep(o, 1, c))
        return np.stack([o * self._act(2, c, clip=False), c])

    def _gru(self, x: FloatArray, h: FloatArray) -> FloatArray:
        z, reset = (self._act(0, self._sum(gate, h, x[:, gate])) for gate in (0, 1))
        if self.reset_bias is None:
            new = self._sum(2, reset * h, x[:, 2])
        else:
            start = np.broadcast_to(self.reset_bias, h.shape)
            new = fma32(reset, self._sum(2, h, start), x[:, 2])
        new = self._act(1, new)
        return fma32(z, h - new, new)


def _bounded(x: FloatArray, bound: float) -> FloatArray:
    limit = np.float32(bound)
    return smaller(larger(x, -limit), limit) if bound else x
