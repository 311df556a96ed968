"""LSTM, GRU and RNN of ONNX files: as imported and as kernels, against ONNX's reference, or our definition where that
knows no lengths, clipping and activations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tvm
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import Loaded, load_model
from tvm_mpq.frontends.onnx_rnn import overlooked_by_reference
from tvm_mpq.frontends.recurrent import emit_loop
from tvm_mpq.numerics.recurrent import evaluate_recurrent
from tvm_mpq.passes import Annotate, Normalize, Realize
from tvm_mpq.passes.graph import read_graph
from tvm_mpq.schema import WORKLOAD_ATTRIBUTE, Plan, RecurrentWorkload, Workload
from tvm_mpq.targets import local_row, to_tvm_attrs

T, N, INPUTS, H = 4, 2, 3, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LENGTHS = {"lengths": np.array([4, 2], np.int32)}


def layer(kind: str, directions: int = 1, rng: Any = None, **options: Any) -> tuple[Any, dict, dict, dict]:
    """Node, inputs, weights and outputs of a layer. states: `input`, `constant`; other options are attributes."""
    draw = lambda *shape: rng.normal(0, 0.5, shape).astype(np.float32)  # noqa: E731
    states, peepholes, lengths = (options.pop(n, None) for n in ("states", "peepholes", "lengths"))
    first = bool(options.get("layout"))
    rows = GATES[kind] * H
    weights = {"W": draw(directions, rows, INPUTS), "R": draw(directions, rows, H), "B": draw(directions, 2 * rows)}
    inputs, names = {"x": draw(N, T, INPUTS) if first else draw(T, N, INPUTS)}, ["x", "W", "R", "B", ""]
    if lengths is not None:
        weights["lengths"], names[4] = lengths, "lengths"
    for state in ("h0", "c0")[: 2 if kind == "LSTM" else 1]:
        names.append("" if states is None else state)
        if states is not None:
            shape = (N, directions, H) if first else (directions, N, H)
            (inputs if states == "input" else weights)[state] = draw(*shape)
    if peepholes:
        weights["P"] = draw(directions, 3 * H)
        names.append("P")
    options.setdefault("direction", ["forward", "bidirectional"][directions - 1])
    outputs = ["y", "yh", "yc"][: options.pop("outputs", 3 if kind == "LSTM" else 2)]
    return helper.make_node(kind, names, outputs, hidden_size=H, **options), inputs, weights, {"outputs": outputs}


def as_kernels(loaded: Loaded, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Built as `build --uniform fp32` builds it."""
    mod = tvm.transform.Sequential([Normalize(), Annotate(threads=1)])(loaded.mod)
    graph = read_graph(mod)
    assert [n.kind for n in graph.nodes if n.kind in ("linear", "recurrent")] == ["linear", "recurrent"]
    attrs = to_tvm_attrs(local_row(), 1)
    plan = Plan(local_row().name, attrs, {n.name: "fp32" for n in graph.weighted()}, {})
    executable = relax.build(Realize(plan)(mod), tvm.target.Target(dict(attrs)))
    out = relax.VirtualMachine(executable, tvm.cpu())["main"](*map(tvm.runtime.tensor, inputs))
    return [t.numpy() for t in ([out] if isinstance(out, tvm.runtime.Tensor) else out)]


STANDARD = {
    "lstm": ("LSTM", 1, {}),
    "lstm_sequence_only": ("LSTM", 1, {"outputs": 1}),
    "lstm_both": ("LSTM", 2, {"states": "input", "peepholes": True}),
    "lstm_reverse": ("LSTM", 1, {"states": "constant", "direction": "reverse"}),
    "lstm_batch_first": ("LSTM", 2, {"states": "input", "layout": 1}),
    "gru_batch_first": ("GRU", 2, {"states": "constant", "layout": 1}),
    "gru": ("GRU", 2, {"states": "input"}),
    "gru_linear_before_reset": ("GRU", 1, {"linear_before_reset": 1}),
    "rnn": ("RNN", 2, {"states": "constant"}),
}


@pytest.mark.parametrize(("kind", "directions", "options"), STANDARD.values(), ids=STANDARD)
def test_equals_onnx(save_onnx, run, rng, kind, directions, options) -> None:
    node, inputs, weights, outputs = layer(kind, directions, rng, **options)
    path = save_onnx([node], {n: (x.shape, "float32") for n, x in inputs.items()}, weights, **outputs)
    want = ReferenceEvaluator(str(path)).run(None, inputs)
    loaded = load_model(path)
    for got in (run(loaded, *inputs.values()), as_kernels(loaded, list(inputs.values()))):
        for found, expected in zip(got, want, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


UNKNOWN_TO_REFERENCE = {
    "lstm": ("LSTM", 2, {"clip": 0.4, "input_forget": 1, "peepholes": True, **LENGTHS}),
    "lstm_activations": ("LSTM", 1, {"activations": ["Sigmoid", "Relu", "LeakyRelu"], "activation_alpha": [0.2]}),
    "gru": ("GRU", 2, {"clip": 0.4, "linear_before_reset": 1, "states": "constant", **LENGTHS}),
}


@pytest.mark.parametrize(("kind", "directions", "options"), UNKNOWN_TO_REFERENCE.values(), ids=UNKNOWN_TO_REFERENCE)
def test_equals_definition(save_onnx, run, rng, kind, directions, options) -> None:
    """Lengths, clipping, coupled gates, activations: loops and kernel do what the definition says of the workload."""
    node, inputs, weights, outputs = layer(kind, directions, rng, **options)
    path = save_onnx([node], {"x": (inputs["x"].shape, "float32")}, weights, **outputs)
    loaded = load_model(path)
    (loops,) = [f for f in loaded.mod.functions.values() if f.attrs and WORKLOAD_ATTRIBUTE in f.attrs]
    workload = Workload.from_json(json.loads(loops.attrs[WORKLOAD_ATTRIBUTE]))
    assert workload.lengths == tuple(options.get("lengths", ())) and workload.clip == pytest.approx(
        options.get("clip", 0)
    )
    graph = read_graph(Normalize()(loaded.mod))
    linear, cell = (next(n for n in graph.nodes if n.kind == kind) for kind in ("linear", "recurrent"))
    gates = inputs["x"] @ linear.weight[:, 0, 0].T + linear.bias
    want = evaluate_recurrent(workload, gates, None, cell.weight, cell.bias)
    for got in (run(loaded, inputs["x"]), as_kernels(loaded, [inputs["x"]])):
        np.testing.assert_allclose(got[0], want[:T], rtol=0, atol=2e-6)
        for place, found in enumerate(got[1:]):
            np.testing.assert_allclose(found, want[T + place], rtol=0, atol=2e-6)


def test_lengths_end_the_sequences(save_onnx, run, rng) -> None:
    """A sequence of two steps ends as if it had been given alone, in either direction, and is zero behind."""
    node, inputs, weights, outputs = layer("GRU", 2, rng, **LENGTHS)
    shape = {"x": ((T, N, INPUTS), "float32")}
    y, last = run(load_model(save_onnx([node], shape, weights, **outputs)), inputs["x"])
    del weights["lengths"]
    node.input[4] = ""
    short = save_onnx([node], {"x": ((2, 1, INPUTS), "float32")}, weights, **outputs)
    alone, alone_last = run(load_model(short), np.ascontiguousarray(inputs["x"][:2, 1:]))
    np.testing.assert_allclose(y[:2, :, 1:], alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(last[:, 1:], alone_last, rtol=0, atol=1e-6)
    assert not y[2:, :, 1].any() and y[2:, :, 0].all()


HARD = {
    "lstm": ("LSTM", 2, {"activations": ["HardSigmoid", "HardSigmoid", "Tanh"] * 2, "peepholes": True}),
    "lstm_alpha": ("LSTM", 1, {"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_alpha": [0.3]}),
    "gru": ("GRU", 1, {"activations": ["HardSigmoid", "Tanh"], "activation_beta": [0.4]}),
    "gru_hidden": ("GRU", 2, {"activations": ["Sigmoid", "HardSigmoid"] * 2, "linear_before_reset": 1}),
    "rnn": ("RNN", 1, {"activations": ["HardSigmoid"], "activation_alpha": [0.9], "activation_beta": [0.1]}),
}


@pytest.mark.parametrize(("kind", "directions", "options"), HARD.values(), ids=HARD)
def test_hard_sigmoid_is_a_clamp_of_a_line(save_onnx, run, rng, kind, directions, options) -> None:
    """Against the step formulas with HardSigmoid in them; gates reach both ends of the clamp."""
    node, inputs, weights, outputs = layer(kind, directions, rng, outputs=1, **options)
    for name in "WRB":
        weights[name] *= 3
    (got,) = run(load_model(save_onnx([node], {"x": (inputs["x"].shape, "float32")}, weights, **outputs)), inputs["x"])
    alpha = options.get("activation_alpha", [0.2])[0]
    beta = options.get("activation_beta", [0.5])[0]
    curves = {
        "HardSigmoid": lambda v: np.clip(alpha * v + beta, 0, 1),
        "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "Tanh": np.tanh,
    }
    f, g, *_ = [curves[name] for name in (*options["activations"], "Tanh")]
    for d in range(directions):
        w, r = weights["W"][d].reshape(-1, H, INPUTS), weights["R"][d].reshape(-1, H, H)
        wb, rb = weights["B"][d].reshape(2, -1, H)
        peep = weights["P"][d].reshape(3, H) if "P" in weights else np.zeros((3, H))
        for n in range(N):
            h, c = np.zeros(H), np.zeros(H)
            for t in range(T)[:: 1 - 2 * d]:
                x = w @ inputs["x"][t, n] + wb
                y = r @ h + rb
                if kind == "LSTM":
                    i, forget = f(x[0] + y[0] + peep[0] * c), f(x[2] + y[2] + peep[2] * c)
                    c = forget * c + i * g(x[3] + y[3])
                    h = f(x[1] + y[1] + peep[1] * c) * np.tanh(c)
                elif kind == "GRU":
                    z, reset = f(x[0] + y[0]), f(x[1] + y[1])
                    last = reset * y[2] if options.get("linear_before_reset") else r[2] @ (reset * h) + rb[2]
                    h = (1 - z) * g(x[2] + last) + z * h
                else:
                    h = f(x[0] + y[0])
                np.testing.assert_allclose(got[t, d, n], h, rtol=0, atol=3e-6)


REFUSED = {
    "alphas": ({"activations": ["HardSigmoid"] * 2, "clip": 1.0}, "clip together with HardSigmoid"),
    "activation": ({"activations": ["Sigmoid", "Softsign"]}, "activations must be among .* \\(got Softsign\\)"),
    "lengths": ({"lengths": np.array([9, 1], np.int32)}, "sequence_lens must be within 0..4"),
    "direction": ({"direction": "sideways"}, "direction must be one of forward, reverse, bidirectional"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(save_onnx, rng, options, message) -> None:
    node, inputs, weights, outputs = layer("GRU", 1, rng, **options)
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(save_onnx([node], {"x": (inputs["x"].shape, "float32")}, weights, **outputs))


def test_computed_weights_and_lengths_are_refused(save_onnx, rng) -> None:
    node, _, weights, outputs = layer("GRU", 1, rng, **LENGTHS)
    shapes = {"x": ((T, N, INPUTS), "float32"), "R": (weights["R"].shape, "float32")}
    rest = {n: w for n, w in weights.items() if n != "R"}
    with pytest.raises(UnsupportedModelError, match="R must be a constant"):
        load_model(save_onnx([node], shapes, rest, **outputs))


@pytest.mark.parametrize("peepholes", [False, True])
def test_a_state_that_becomes_constant(rng, peepholes) -> None:
    """Folding finds the state's value after the import: the kernel has it among its constants, and the body runs."""
    w = RecurrentWorkload("lstm", 2, 1, 4, ("forward",), ("sigmoid", "tanh", "tanh"), "given", peepholes=peepholes)
    gates, state, weight, vectors = (
        rng.normal(0, 0.5, s).astype(np.float32) for s in (w.gates_shape, w.state_shape, w.weight_shape, w.vectors_size)
    )
    x = relax.Var("x", relax.TensorType(w.gates_shape, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            half = builder.emit(relax.op.multiply(relax.const(state), relax.const(np.float32(2))))
            out = builder.emit_output(emit_loop(w, builder.emit(relax.op.nn.relu(x)), half, weight, vectors))
        builder.emit_func_output(out)
    normalized = Normalize()(builder.get())
    (cell,) = (n for n in read_graph(normalized).nodes if n.kind == "recurrent")
    assert cell.workload.initial == "constant"
    want = evaluate_recurrent(w, np.maximum(gates, 0), 2 * state, weight, vectors)
    executable = tvm.compile(normalized, target=tvm.target.Target({"kind": "llvm"}))
    got = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(gates)).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    constant = evaluate_recurrent(cell.workload, np.maximum(gates, 0), None, cell.weight, cell.bias)
    np.testing.assert_array_equal(constant, want)


OVERLOOKED = {
    "lengths": (LENGTHS, "sequence_lens of GRU"),
    "clip": ({"clip": 0.4}, "clip of GRU"),
    "activations": ({"activations": ["Sigmoid", "Relu"]}, "activations of GRU"),
    "nothing": ({"linear_before_reset": 1}, None),
}


@pytest.mark.parametrize(("options", "what"), OVERLOOKED.values(), ids=OVERLOOKED)
def test_imports_are_not_compared_with_what_reads_past_an_attribute(rng, options, what) -> None:
    node, *_ = layer("GRU", 1, rng, **options)
    assert overlooked_by_reference([helper.make_node("Relu", ["x"], ["y"]), node]) == what
