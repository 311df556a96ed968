"""Recurrent layers against the formulas of ONNX's LSTM, GRU and RNN, unit by unit in Python's own numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import affine, fused_activations
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.recurrent_bytes import longest_sum, recurrent_constants
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import FP32, W8A8, Precision, RecurrentWorkload, TensorQuant

BOTH = ("forward", "reverse")
LSTM, GRU = ("sigmoid", "tanh", "tanh"), ("sigmoid", "tanh")
STATE = TensorQuant(8, 0.01, 130)
CURVES: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "leaky_relu:0.25": lambda x: x if x > 0 else 0.25 * x,
}
LAYERS = [
    RecurrentWorkload("lstm", 4, 2, 3, BOTH, LSTM),
    RecurrentWorkload("lstm", 3, 2, 3, ("reverse",), LSTM, initial="given", emits_states=True, lengths=(3, 1)),
    RecurrentWorkload("lstm", 3, 2, 2, BOTH, LSTM, initial="constant", peepholes=True, clip=0.4),
    RecurrentWorkload("lstm", 3, 1, 3, ("forward",), ("sigmoid", "tanh", "relu"), peepholes=True, coupled=True),
    RecurrentWorkload("gru", 4, 2, 3, BOTH, GRU, initial="given", lengths=(0, 3), emits_states=True),
    RecurrentWorkload("gru", 4, 2, 3, BOTH, GRU, initial="constant", reset_after=True, emits_states=True),
    RecurrentWorkload("gru", 3, 1, 3, ("reverse",), GRU, clip=0.3),
    RecurrentWorkload("rnn", 4, 3, 4, BOTH, ("tanh",), lengths=(4, 2, 3), initial="given"),
    RecurrentWorkload("rnn", 3, 2, 2, ("forward",), ("leaky_relu:0.25",), emits_states=True, clip=0.5),
]


def operands(w: RecurrentWorkload, rng: np.random.Generator) -> tuple[Operands, list[np.ndarray]]:
    shapes = [w.gates_shape, *([w.state_shape] if w.initial == "given" else [])]
    weight, vectors = (rng.normal(0, 0.7, shape).astype(np.float32) for shape in (w.weight_shape, w.vectors_size))
    inputs = [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]
    return Operands((None,) * 2, None, weight, vectors, state=STATE), inputs


def by_formulas(
    w: RecurrentWorkload,
    weight: np.ndarray,
    vectors: np.ndarray,
    inputs: list[np.ndarray],
    seen: Callable[[float], float] = float,
) -> np.ndarray:
    """float64, one unit at a time; ONNX's order of gates: of an LSTM i o f c, of a GRU z r h.

    seen: what products with R take for a state.
    """
    out = np.zeros(w.out_shape)
    parts = {name: vectors[at : at + math.prod(shape)].reshape(shape) for name, (at, shape) in w.parts.items()}
    start = inputs[1] if w.initial == "given" else parts.get("state", np.zeros(w.state_shape))
    units = range(w.hidden)

    def act(place: int, x: float) -> float:
        return CURVES[w.activations[place]](min(max(x, -w.clip), w.clip) if w.clip else x)

    for d, n in itertools.product(range(len(w.directions)), range(w.batch)):
        length = w.lengths[n] if w.lengths else w.steps
        rows = weight[d].reshape(w.gates, w.hidden, w.hidden).tolist()
        peep = parts["peepholes"][d].tolist() if w.peepholes else np.zeros((3, w.hidden)).tolist()
        reset_bias = parts["reset_bias"][d].tolist() if w.reset_after else []
        h, *c = start[:, d, n].tolist()
        for t in range(length) if w.directions[d] == "forward" else range(length)[::-1]:
            x = inputs[0][t, n].reshape(len(w.directions), w.gates, w.hidden)[d].tolist()
            sums = [[_dot(rows[g][u], h, seen) for u in units] for g in range(w.gates)]
            if w.cell == "lstm":
                i, o, f, z = ([x[g][u] + sums[g][u] for u in units] for g in range(4))
                old, new = c[0], [0.0] * w.hidden
                for u in units:
                    i[u] = act(0, i[u] + peep[0][u] * old[u])
                    f[u] = 1 - i[u] if w.coupled else act(0, f[u] + peep[2][u] * old[u])
                    new[u] = f[u] * old[u] + i[u] * act(1, z[u])
                    o[u] = act(0, o[u] + peep[1][u] * new[u])
                h, c = [o[u] * CURVES[w.activations[2]](new[u]) for u in units], [new]
            elif w.cell == "gru":
                z, r = ([act(0, x[g][u] + sums[g][u]) for u in units] for g in (0, 1))
                reset = [r[u] * h[u] for u in units]
                if w.reset_after:
                    inner = [r[u] * (sums[2][u] + reset_bias[u]) for u in units]
                else:
                    inner = [_dot(rows[2][u], reset, seen) for u in units]
                new = [act(1, x[2][u] + inner[u]) for u in units]
                h = [(1 - z[u]) * new[u] + z[u] * h[u] for u in units]
            else:
                h = [act(0, x[0][u] + sums[0][u]) for u in units]
            out[t, d, n] = h
        if w.emits_states:
            out[w.steps :, d, n] = [h, *c]
    return out


def _dot(row: list[float], state: list[float], seen: Callable[[float], float]) -> float:
    return sum(r * seen(s) for r, s in zip(row, state, strict=True))


@pytest.mark.parametrize("w", LAYERS, ids=lambda w: w.key[:60])
def test_floats(w: RecurrentWorkload, rng: np.random.Generator) -> None:
    given, inputs = operands(w, rng)
    assert given.weight is not None and given.bias is not None
    y = evaluate(w, FP32, 32, given, inputs)
    assert y.dtype == np.float32
    # activations are rounded to float32, at most four in a row for each of four steps
    np.testing.assert_allclose(y, by_formulas(w, given.weight, given.bias, inputs), rtol=0, atol=4e-6)


@pytest.mark.parametrize("w", LAYERS, ids=lambda w: w.key[:60])
def test_bytes(w: RecurrentWorkload, rng: np.random.Generator) -> None:
    """The formulas with rounded weights, and with states that are rounded for their products alone."""
    given, inputs = operands(w, rng)
    assert given.weight is not None and given.bias is not None and given.state is not None
    codes, scale = affine.quantize_weight(given.weight.reshape(-1, w.hidden), 8)
    rounded = (codes * scale[:, None].astype(np.float64)).reshape(w.weight_shape)
    low, high = (float(affine.dequantize(np.uint8(q), STATE)) for q in (0, 255))

    def seen(h: float) -> float:
        return min(max(round(h / STATE.scale) * STATE.scale, low), high)

    want = by_formulas(w, rounded, given.bias, inputs, seen)
    assert np.abs(want - by_formulas(w, rounded, given.bias, inputs)).max() > 1e-4, "the rounding of h is seen"
    y = evaluate(w, W8A8, 32, given, inputs)
    assert y.dtype == np.float32
    # some twenty roundings of numbers below 4 in each of four steps, less what the curves flatten
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-5)


def test_bytes_are_exact_where_every_number_is_an_integer() -> None:
    """h, weights and gates of whole numbers within their ranges: no rounding, so the float definition's result."""
    w = RecurrentWorkload("rnn", 3, 2, 2, BOTH, ("clip:-100.0:120.0",), initial="given", emits_states=True)
    rng = np.random.default_rng(5)
    weight = rng.integers(-1, 2, w.weight_shape).astype(np.float32) * 127
    weight[..., 0] = 127  # of every row the greatest, so that scales are 1
    inputs = [rng.integers(-9, 9, w.gates_shape).astype(np.float32), np.zeros(w.state_shape, np.float32)]
    inputs[1][:] = rng.integers(-3, 4, w.state_shape)
    given = Operands((None, None), None, weight, np.zeros(1, np.float32), state=TensorQuant(8, 1.0, 100))
    got = evaluate(w, W8A8, 32, given, inputs)
    np.testing.assert_array_equal(got, evaluate(w, FP32, 32, given, inputs))
    assert {-100.0, 120.0} < set(got.ravel().tolist())


def test_states_beyond_their_range_count_as_its_ends() -> None:
    w = RecurrentWorkload("rnn", 1, 1, 1, ("forward",), ("none",), initial="given")
    given = Operands((None, None), None, np.full((1, 1, 1), 127, np.float32), np.zeros(1, np.float32), state=STATE)
    gates = np.full(w.gates_shape, 0.5, np.float32)
    factor = np.float32(0.01)  # of a step of h; the weight's own scale is 1
    for h, steps in ((1e30, 255 - 130), (-1e30, -130), (np.inf, 125), (0.0049, 0), (0.0051, 1), (0.025, 2)):
        (y,) = evaluate(w, W8A8, 32, given, [gates, np.full(w.state_shape, h, np.float32)]).ravel()
        assert y == np.float32(np.float64(127 * steps) * factor + 0.5)


def test_the_constants_of_bytes(rng: np.random.Generator) -> None:
    w = LAYERS[0]
    given, _ = operands(w, rng)
    found = recurrent_constants(w, given)
    assert found.weight.shape == w.weight_shape and found.weight.dtype == np.int8
    assert found.factor.shape == w.weight_shape[:2] and found.per_step == np.float32(1 / 0.01)
    assert given.weight is not None
    real = found.weight * (found.factor[..., None] / np.float32(STATE.scale))
    off = np.abs(real - given.weight) / np.abs(given.weight).max(-1, keepdims=True)
    assert off.max() < 0.5001 / 127


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_longest_sum_just_fits(bits: int) -> None:
    most = 127 * (2**bits - 1)
    assert longest_sum(bits) * most <= 2**31 - 1 < (longest_sum(bits) + 1) * most


def test_the_rounding_of_every_step_is_that_of_the_fused_activations(rng: np.random.Generator) -> None:
    """With weights of 0 a plain RNN's result is its activation of what the inputs gave, to the bit."""
    w = RecurrentWorkload("rnn", 5, 2, 9, BOTH, ("tanh",))
    given = Operands((None, None), None, np.zeros(w.weight_shape, np.float32), np.zeros(1, np.float32), state=STATE)
    gates = rng.normal(0, 3, w.gates_shape).astype(np.float32)
    want = fused_activations.apply("tanh", gates.reshape(5, 2, 2, 9).transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(evaluate(w, W8A8, 32, given, [gates]), want)


def test_missing_pieces_are_named(rng: np.random.Generator) -> None:
    w = LAYERS[0]
    given, inputs = operands(w, rng)
    for change in ({"weight": None}, {"bias": None}):
        for precision in (FP32, W8A8):
            with pytest.raises(InvalidValueError, match="needs a weight and its vectors"):
                evaluate(w, precision, 32, dataclasses.replace(given, **change), inputs)
    with pytest.raises(InvalidValueError, match="needs the range of its state"):
        evaluate(w, W8A8, 32, dataclasses.replace(given, state=None), inputs)
    for precision, out_bits in ((Precision(4, 8), 32), (W8A8, 8)):
        with pytest.raises(InvalidValueError, match="recurrent layers run at w8a8 or in fp32"):
            evaluate(w, precision, out_bits, given, inputs)
