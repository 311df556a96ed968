"""TFLite's LSTMs over sequences are the layers that NumPy says they are, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tflite

from mpq_testing.tflite_models import Tensor, operator, write
from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import load_model
from tvm_mpq.schema import WORKLOAD_ATTRIBUTE, Workload

STEPS, BATCH, INPUTS, HIDDEN = 3, 2, 3, 4


class Layer:
    """One LSTM in a file; weights of `cells` by gate, in TFLite's order (input, forget, cell, output)."""

    def __init__(self, rng: Any, directions: int = 1, *, time_major: bool = False, input_gate: bool = True) -> None:
        self.time_major = time_major
        self.tensors = [Tensor("x", (STEPS, BATCH, INPUTS) if time_major else (BATCH, STEPS, INPUTS))]
        self.cells, self.inputs = [], [0]
        self.integers = False
        for _ in range(directions):
            shapes = [(HIDDEN, INPUTS)] * 4 + [(HIDDEN, HIDDEN)] * 4 + [(HIDDEN,)] * 4
            cell: list[Any] = [2 * rng.standard_normal(s).astype(np.float32) for s in shapes]
            if not input_gate:
                cell[0] = cell[4] = cell[8] = None
            places = [-1 if c is None else self.tensor(f"w{len(self.tensors)}", c) for c in cell]
            self.cells.append(cell)
            self.inputs += [*places[:8], -1, -1, -1, *places[8:], -1, -1]
        self.inputs += [self.variable() for _ in range(2 * directions)]
        self.inputs += [-1] * (4 if directions == 1 else 9)
        self.x = rng.standard_normal(self.tensors[0].shape).astype(np.float32)

    def tensor(self, name: str, data: Any) -> int:
        self.tensors.append(Tensor(name, data.shape, data))
        return len(self.tensors) - 1

    def variable(self) -> int:
        self.tensors.append(Tensor(f"state{len(self.tensors)}", (BATCH, HIDDEN), variable=True))
        return len(self.tensors) - 1

    def save(self, path: Any, *, merged: bool = True, **fields: Any) -> Any:
        both = len(self.cells) > 1
        sizes = [HIDDEN * len(self.cells)] if merged else [HIDDEN] * len(self.cells)
        outputs = []
        for size in sizes:
            self.tensors.append(Tensor(f"y{len(self.tensors)}", (*self.x.shape[:2], size)))
            outputs.append(len(self.tensors) - 1)
        code = "BIDIRECTIONAL_SEQUENCE_LSTM" if both else "UNIDIRECTIONAL_SEQUENCE_LSTM"
        options = "BidirectionalSequenceLSTMOptions" if both else "UnidirectionalSequenceLSTMOptions"
        given = {"FusedActivationFunction": tflite.ActivationFunctionType.TANH, "TimeMajor": self.time_major}
        given |= ({"MergeOutputs": merged} if both else {}) | fields
        made = operator(code, tuple(self.inputs), outputs if len(outputs) > 1 else outputs[0], options, **given)
        return write(path, self.tensors, graph_operators=[made], outputs=outputs)

    def wanted(self, clip: float = np.inf) -> list[Any]:
        """h of each direction, time first or batch first as x, in float64. clip: of the cell state."""
        x = self.x if self.time_major else self.x.swapaxes(0, 1)
        found = []
        for number, cell in enumerate(self.cells):
            h, c, out = np.zeros((BATCH, HIDDEN)), np.zeros((BATCH, HIDDEN)), np.zeros((STEPS, BATCH, HIDDEN))
            for t in reversed(range(STEPS)) if number else range(STEPS):
                into = [
                    None if cell[g] is None else x[t] @ cell[g].T + h @ cell[4 + g].T + cell[8 + g] for g in range(4)
                ]
                f, o = sigmoid(into[1]), sigmoid(into[3])
                i = 1 - f if into[0] is None else sigmoid(into[0])
                c = np.clip(f * c + i * np.tanh(into[2]), -clip, clip)
                h = out[t] = o * np.tanh(c)
            found.append(out if self.time_major else out.swapaxes(0, 1))
        return found


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(("time_major", "input_gate"), [(False, True), (True, True), (False, False)])
def test_one_direction(tmp_path, rng, run, time_major, input_gate) -> None:
    """cell_clip 10, which converters write, cuts nothing within three steps."""
    layer = Layer(rng, time_major=time_major, input_gate=input_gate)
    loaded = load_model(layer.save(tmp_path / "net.tflite", CellClip=10.0))
    np.testing.assert_allclose(run(loaded, layer.x)[0], layer.wanted()[0], rtol=0, atol=1e-5)
    assert loaded.notes == ("states of recurrent layers are zero when a run starts; LiteRT keeps them from run to run",)


@pytest.mark.parametrize(("time_major", "merged"), [(False, True), (True, False)])
def test_both_directions(tmp_path, rng, run, time_major, merged) -> None:
    layer = Layer(rng, 2, time_major=time_major)
    found = run(load_model(layer.save(tmp_path / "net.tflite", merged=merged)), layer.x)
    wanted = [np.concatenate(layer.wanted(), -1)] if merged else layer.wanted()
    for got, each in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, each, rtol=0, atol=1e-5)


def test_weights_of_eight_bits(tmp_path, rng, run) -> None:
    layer = Layer(rng)
    for tensor in layer.tensors:
        if tensor.data is not None and tensor.data.ndim == 2:
            scale = float(np.float32(np.abs(tensor.data).max() / 127))
            tensor.data, tensor.dtype, tensor.scales = np.round(tensor.data / scale).astype(np.int8), "int8", (scale,)
            number = int(tensor.name[1:]) - 1
            layer.cells[0][number] = tensor.data * np.float32(scale)
    loaded = load_model(layer.save(tmp_path / "net.tflite"))
    np.testing.assert_allclose(run(loaded, layer.x)[0], layer.wanted()[0], rtol=0, atol=1e-5)
    assert "int8 weights of 8 tensors" in loaded.notes[0]


def test_its_operators_are_a_product_and_a_loop(tmp_path, rng, operators) -> None:
    found = list(operators(load_model(Layer(rng).save(tmp_path / "net.tflite"))).values())
    assert found.count("relax.matmul") == 1 and found.count("relax.call_tir") == 1


@pytest.mark.parametrize(("directions", "input_gate"), [(1, True), (1, False), (2, True)])
def test_cell_states_are_cut_where_they_reach_cell_clip(tmp_path, rng, run, directions, input_gate) -> None:
    """Each direction is a result of its own: LiteRT reads memory that it never wrote where it joins them."""
    layer, clip = Layer(rng, directions, input_gate=input_gate), 0.25
    loaded = load_model(layer.save(tmp_path / "net.tflite", merged=False, CellClip=clip))
    wanted = layer.wanted(clip)
    assert np.abs(np.stack(wanted) - np.stack(layer.wanted())).max() > 0.1
    assert loaded.reference is not None
    (answer,) = loaded.reference.answers({"x": layer.x})
    for found in (run(loaded, layer.x), answer.outputs):
        for got, each in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, each, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("clip", "input_gate", "kept"), [(2.5, True, 2.5), (3.0, True, 0.0), (1.0, False, 0.0)])
def test_a_cell_clip_that_no_state_reaches_is_left_out(tmp_path, rng, clip, input_gate, kept) -> None:
    """Each step adds 1 at most; without input gate states stay within 1."""
    loaded = load_model(Layer(rng, input_gate=input_gate).save(tmp_path / "net.tflite", CellClip=clip))
    (loops,) = [f for f in loaded.mod.functions.values() if f.attrs and WORKLOAD_ATTRIBUTE in f.attrs]
    assert Workload.from_json(json.loads(loops.attrs[WORKLOAD_ATTRIBUTE])).cell_clip == kept


@pytest.mark.parametrize(
    ("place", "fields", "message"),
    [
        (9, {}, "with peepholes"),
        (11, {}, "with peepholes"),
        (16, {}, "with projection"),
        (22, {}, "layer normalization"),
        (None, {"ProjClip": 3.0}, "proj_clip"),
        (None, {"FusedActivationFunction": 1}, "must be TANH"),
        (None, {"DiagonalRecurrentTensors": True}, "diagonal"),
    ],
)
def test_the_rest_is_refused_by_name(tmp_path, rng, place, fields, message) -> None:
    layer = Layer(rng)
    if place is not None:
        layer.inputs[place] = layer.tensor("more", np.ones(HIDDEN, np.float32))
    with pytest.raises(UnsupportedModelError, match=rf"^net.tflite: operator UNIDIR[A-Z_]* [^\n]*{message}[^\n]*$"):
        load_model(layer.save(tmp_path / "net.tflite", **fields))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (39, "auxiliary"),
        (18 + 8, "with peepholes"),
        (33, "with projection"),
        (37, "must be a variable"),
        (20, "comput"),
    ],
)
def test_the_rest_of_both_directions_is_refused(tmp_path, rng, place, message) -> None:
    layer = Layer(rng, 2)
    layer.inputs[place] = 0 if place == 20 else layer.tensor("more", np.ones((BATCH, HIDDEN), np.float32))
    with pytest.raises(UnsupportedModelError, match=rf"^net.tflite: operator BIDIR[A-Z_]* [^\n]*{message}[^\n]*$"):
        load_model(layer.save(tmp_path / "net.tflite"))


def test_integers_without_a_scale_are_refused(tmp_path, rng) -> None:
    layer = Layer(rng)
    layer.tensors[layer.inputs[14]].data = np.arange(HIDDEN, dtype=np.int32)
    layer.tensors[layer.inputs[14]].dtype = "int32"
    with pytest.raises(UnsupportedModelError, match=r"without a scale \(input 14\)"):
        load_model(layer.save(tmp_path / "net.tflite"))
