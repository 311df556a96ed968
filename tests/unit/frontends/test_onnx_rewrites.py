"""Operators that are written in others before TVM reads them, against NumPy and ONNX's own evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import load_model

node = helper.make_node
rng = np.random.default_rng(21)
X = rng.standard_normal((2, 3, 4), dtype=np.float32)
MAP = rng.standard_normal((2, 3, 6, 7), dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    weights: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 20,
) -> onnx.ModelProto:
    kinds = {n: helper.np_dtype_to_tensor_dtype(x.dtype) for n, x in inputs.items()}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, kinds[n], x.shape) for n, x in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def results(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], folder: Path, run: Any) -> list[np.ndarray]:
    onnx.save(model, str(folder / "net.onnx"))
    found: list[np.ndarray] = run(load_model(folder / "net.onnx"), *inputs.values())
    return found


def parts(spectrum: np.ndarray) -> np.ndarray:
    return np.stack([spectrum.real, spectrum.imag], -1).astype(np.float32)


PAIRS = rng.standard_normal((2, 10, 3, 2), dtype=np.float32)
COMPLEX = PAIRS[..., 0] + 1j * PAIRS[..., 1]
SIGNAL = rng.standard_normal((2, 41), dtype=np.float32)
FRAMES = np.stack([SIGNAL[:, i : i + 16] for i in range(0, 26, 5)], 1)
WINDOW = np.hanning(16).astype(np.float32)
TRUTHS = np.array([[True, False], [True, True]])
BLOCKS = rng.standard_normal((1, 2 * 6, 25), dtype=np.float32)

Case = tuple[onnx.NodeProto, dict[str, np.ndarray], dict[str, Any], Any]

CASES: dict[str, Case] = {  # case -> (node, inputs, weights, expected; None: what ONNX's evaluator says)
    "spectrum": (node("DFT", ["x"], ["y"]), {"x": X[..., None]}, {}, parts(np.fft.fft(X))),
    "half_of_a_spectrum": (
        node("DFT", ["x", "n", "a"], ["y"], onesided=1),
        {"x": PAIRS[..., :1]},
        {"n": np.int64(16), "a": np.int64(-3)},
        parts(np.fft.rfft(PAIRS[..., 0], 16, axis=1)),
    ),
    "signal_of_a_spectrum": (
        node("DFT", ["x", "n", "a"], ["y"], inverse=1),
        {"x": PAIRS},
        {"n": np.int64(7), "a": np.int64(1)},
        parts(np.fft.ifft(COMPLEX, 7, axis=1)),
    ),
    "spectra_over_time": (
        node("STFT", ["x", "s", "w"], ["y"]),
        {"x": SIGNAL},
        {"s": np.int64(5), "w": WINDOW},
        parts(np.fft.rfft(FRAMES * WINDOW)),
    ),
    "spectra_over_time_without_window": (
        node("STFT", ["x", "s", "", "n"], ["y"], onesided=0),
        {"x": SIGNAL[..., None]},
        {"s": np.int64(5), "n": np.int64(16)},
        parts(np.fft.fft(FRAMES)),
    ),
    "windows_added_up": (
        node("Col2Im", ["x", "i", "b"], ["y"], strides=[1, 2], pads=[1, 0, 0, 1], dilations=[2, 1]),
        {"x": BLOCKS},
        {"i": ints(6, 10), "b": ints(2, 3)},
        None,
    ),
    "sums_of_squares_over_nothing": (
        node("ReduceSumSquare", ["x", "a"], ["y"], noop_with_empty_axes=1),
        {"x": X},
        {"a": ints()},
        X * X,
    ),
    "logarithm_over_nothing": (
        node("ReduceLogSum", ["x"], ["y"], noop_with_empty_axes=1),
        {"x": np.abs(X)},
        {},
        np.log(np.abs(X)),
    ),
    "lengths_over_nothing": (node("ReduceL2", ["x"], ["y"], noop_with_empty_axes=1), {"x": X}, {}, np.abs(X)),
    "sums_over_all": (node("ReduceSumSquare", ["x"], ["y"], keepdims=0), {"x": X}, {}, np.sum(X * X)),
    "any_truth": (node("ReduceMax", ["x", "a"], ["y"], keepdims=0), {"x": TRUTHS}, {"a": ints(1)}, TRUTHS.any(1)),
    "all_truths": (node("ReduceMin", ["x", "a"], ["y"], keepdims=0), {"x": TRUTHS}, {"a": ints(1)}, TRUTHS.all(1)),
    "even_window_of_channels": (
        node("LRN", ["x"], ["y"], size=2, alpha=0.5, beta=0.6, bias=1.5),
        {"x": MAP},
        {},
        MAP / (1.5 + 0.25 * (MAP**2 + np.concatenate([MAP[:, 1:], 0 * MAP[:, :1]], 1) ** 2)) ** 0.6,
    ),
    "one_of_each": (
        node("OneHot", ["x", "d", "v"], ["y"], axis=0),
        {"x": ints(1, -1, 5)},
        {"d": np.int64(4), "v": np.float32([0.5, 2])},
        np.float32([[0.5, 0.5, 0.5], [2, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 2, 0.5]]),
    ),
    "scales_to_broadcast": (
        node("LayerNormalization", ["x", "g"], ["y"], axis=1),
        {"x": X},
        {"g": X[0, 0]},
        (X - X.mean((1, 2), keepdims=True)) / np.sqrt(X.var((1, 2), keepdims=True) + 1e-5) * X[0, 0],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operators(case: str, tmp_path: Path, run: Any) -> None:
    operator, inputs, weights, expected = CASES[case]
    model = model_of([operator], inputs, weights)
    (found,) = results(model, inputs, tmp_path, run)
    if expected is None:
        (expected,) = ReferenceEvaluator(model).run(None, dict(inputs))
    assert found.shape == expected.shape and found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_spectrum_is_one_product(tmp_path: Path, operators: Any) -> None:
    """Whose matrix may be quantized like any weight."""
    onnx.save(model_of([node("DFT", ["x"], ["y"])], {"x": PAIRS}), str(tmp_path / "net.onnx"))
    assert list(operators(load_model(tmp_path / "net.onnx")).values()).count("relax.matmul") == 1


WINDOWS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "column_major": {"kernel_shape": [2, 2], "strides": [2, 2], "storage_order": 1},
    "padded": {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [1, 0, 0, 1], "dilations": [2, 1]},
    "same": {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
}


@pytest.mark.parametrize("window", WINDOWS)
def test_places_of_maxima_and_back(window: str, tmp_path: Path, run: Any) -> None:
    """The value at each place is the maximum, and the planes are counted through."""
    nodes = [node("MaxPool", ["x"], ["m", "i"], **WINDOWS[window])]
    maxima, places = results(model_of(nodes, {"x": MAP}, outputs=["m", "i"]), {"x": MAP}, tmp_path, run)
    flat = MAP.transpose(0, 1, 3, 2) if window == "column_major" else MAP
    assert places.dtype == np.int64
    np.testing.assert_array_equal(np.ravel(flat)[places], maxima)


def test_maxima_at_their_places(tmp_path: Path, run: Any) -> None:
    """With padding of rows only, which must not be taken for padding of columns."""
    window: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}
    x = MAP[:, :, :5, :6]
    nodes = [node("MaxPool", ["x"], ["m", "i"], **window), node("MaxUnpool", ["m", "i"], ["y"], **window)]
    maxima, places, found = results(model_of(nodes, {"x": x}, outputs=["m", "i", "y"]), {"x": x}, tmp_path, run)
    expected = np.zeros(x.size, np.float32)
    expected[places.ravel()] = maxima.ravel()
    np.testing.assert_array_equal(found, expected.reshape(x.shape))


def test_an_output_shape_that_its_window_does_not_give_is_refused(tmp_path: Path, run: Any) -> None:
    unpool = node("MaxUnpool", ["m", "i", "s"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    nodes = [node("MaxPool", ["x"], ["m", "i"], **WINDOWS["plain"]), unpool]
    with pytest.raises(UnsupportedModelError, match=r"^net.onnx: operator MaxUnpool .* output_shape must be [^\n]*$"):
        results(model_of(nodes, {"x": MAP}, {"s": ints(2, 3, 9, 9)}), {"x": MAP}, tmp_path, run)


def branch(nodes: Sequence[onnx.NodeProto], *outputs: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [helper.make_empty_tensor_value_info(o) for o in outputs])


DOUBLE = branch([node("Add", ["x", "x"], ["t"]), node("Neg", ["t"], ["u"])], "t", "u")
SAME = branch([node("Identity", ["x"], ["t"]), node("Relu", ["x"], ["u"])], "t", "u")


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_an_if_that_the_network_decides(taken: bool, shape: tuple[int, ...], tmp_path: Path, run: Any) -> None:
    """Both branches are computed; one of them stands inside another If."""
    inner = branch([node("If", ["c"], ["t", "u"], then_branch=DOUBLE, else_branch=SAME)], "t", "u")
    choice = node("If", ["c"], ["a", "b"], then_branch=inner, else_branch=SAME)
    inputs = {"x": X, "c": np.full(shape, taken)}
    a, b = results(model_of([choice], inputs, outputs=["a", "b"]), inputs, tmp_path, run)
    np.testing.assert_array_equal(a, 2 * X if taken else X)
    np.testing.assert_array_equal(b, -2 * X if taken else np.maximum(X, 0))


def test_branches_of_other_sizes_are_refused(tmp_path: Path, run: Any) -> None:
    total = branch([node("ReduceSum", ["x"], ["t"]), node("Relu", ["x"], ["u"])], "t", "u")
    choice = node("If", ["c"], ["a", "b"], then_branch=SAME, else_branch=total)
    inputs = {"x": X, "c": np.array(True)}
    with pytest.raises(UnsupportedModelError, match=r"^net.onnx: operator If .* different tensors \(2x3x4 and 1x1x1\)"):
        results(model_of([choice], inputs, outputs=["a", "b"]), inputs, tmp_path, run)


def test_a_branch_that_does_not_fit_the_sizes_is_not_taken(tmp_path: Path, run: Any) -> None:
    """As where a rate is chosen as a network runs, and each rate has its own length of input."""
    weights = {"four": np.eye(4, dtype=np.float32), "five": np.ones((5, 4), np.float32), "rate": np.int64(16000)}
    wrong, right = (branch([node("MatMul", ["x", w], ["t"])], "t") for w in ("five", "four"))
    nodes = [node("Equal", ["sr", "rate"], ["c"]), node("If", ["c"], ["y"], then_branch=right, else_branch=wrong)]
    inputs = {"x": X, "sr": np.array(16000)}
    onnx.save(model_of(nodes, inputs, weights), str(tmp_path / "net.onnx"))
    loaded = load_model(tmp_path / "net.onnx")
    assert any("takes its then_branch: the other one does not fit" in note for note in loaded.notes)
    np.testing.assert_array_equal(run(loaded, *inputs.values())[0], X)


FLOATS, TRUTH, NUMBER = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def body_of(nodes: Sequence[onnx.NodeProto], outputs: Sequence[tuple[str, int]]) -> onnx.GraphProto:
    """A body with the state `v`; `i` counts, `go` is the condition so far."""
    values = [("i", NUMBER, []), ("go", TRUTH, []), ("v", FLOATS, X.shape)]
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(n, k, s) for n, k, s in values],
        [helper.make_tensor_value_info(n, k, None) for n, k in outputs],
    )


def test_a_loop_of_known_length_is_its_steps(tmp_path: Path, run: Any) -> None:
    """It reads `x` from outside, and gives its last state and what each step made."""
    nodes = [node("Add", ["v", "x"], ["more"]), node("Identity", ["go"], ["on"]), node("Neg", ["more"], ["less"])]
    body = body_of(nodes, [("on", TRUTH), ("more", FLOATS), ("less", FLOATS)])
    loop = node("Loop", ["n", "go0", "x"], ["y", "all"], body=body)
    model = model_of([loop], {"x": X}, {"n": np.int64(3), "go0": np.array(True)}, ["y", "all"])
    last, every = results(model, {"x": X}, tmp_path, run)
    np.testing.assert_allclose(last, 4 * X, rtol=1e-6)
    np.testing.assert_allclose(every, np.stack([-2 * X, -3 * X, -4 * X]), rtol=1e-6)


COUNTING = [node("Cast", ["i"], ["f"], to=FLOATS), node("Add", ["v", "f"], ["w"]), node("Less", ["i", "two"], ["on"])]


@pytest.mark.parametrize(("limit", "steps"), [(None, 3), (2, 2), (0, 0)])
def test_a_loop_that_counts_for_itself_ends(limit: int | None, steps: int, tmp_path: Path, run: Any) -> None:
    weights = {"two": np.int64(2), "go0": np.array(True)} | ({} if limit is None else {"n": np.int64(limit)})
    body = body_of(COUNTING, [("on", TRUTH), ("w", FLOATS)])
    loop = node("Loop", ["" if limit is None else "n", "go0", "x"], ["y"], body=body)
    (found,) = results(model_of([loop], {"x": X}, weights), {"x": X}, tmp_path, run)
    np.testing.assert_allclose(found, X + sum(range(steps)), rtol=1e-6)


def test_a_loop_that_the_data_end_is_refused(tmp_path: Path, run: Any) -> None:
    nodes = [
        node("Neg", ["v"], ["w"]),
        node("ReduceSum", ["w"], ["s"], keepdims=0),
        node("Less", ["s", "zero"], ["on"]),
    ]
    weights = {"zero": np.float32(0), "go0": np.array(True), "n": np.int64(4)}
    loop = node("Loop", ["n", "go0", "x"], ["y"], body=body_of(nodes, [("on", TRUTH), ("w", FLOATS)]))
    with pytest.raises(UnsupportedModelError, match=r"^net.onnx: operator Loop .*depends on the data[^\n]*$"):
        results(model_of([loop], {"x": X}, weights), {"x": X}, tmp_path, run)


def test_operators_of_onnx_that_nothing_here_computes_are_told_as_such(tmp_path: Path, run: Any) -> None:
    determinant = node("Det", ["x"], ["y"])
    with pytest.raises(UnsupportedModelError, match=r"^net.onnx: operator Det of ONNX cannot be compiled[^\n]+$"):
        results(model_of([determinant], {"x": X[:, :, :3]}), {"x": X[:, :, :3]}, tmp_path, run)
