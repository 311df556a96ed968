"""TFLite files are imported as what they compute, or refused by name."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import tflite

from mpq_testing.tflite_models import (
    OPERATORS,
    Tensor,
    classified,
    classifier_tensors,
    dequantize_options,
    expand_options,
    transposed_operator,
    write,
)
from tvm_mpq.errors import FileFormatError, UnsupportedModelError
from tvm_mpq.frontends import load_model
from tvm_mpq.schema import TensorQuant


@pytest.fixture
def tensors(rng) -> list[Tensor]:
    return classifier_tensors(rng)


def test_the_imported_network_computes_the_same(tensors, tmp_path, rng, run) -> None:
    loaded = load_model(write(tmp_path / "net.tflite", tensors))
    x = rng.standard_normal((1, 4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(run(loaded, x)[0], classified(tensors, x), rtol=0, atol=1e-4)
    assert loaded.name == "net"
    assert loaded.input_names == ("serving_input:0",)
    assert str(loaded.mod["main"].params[0].name) == "serving_input_0"
    assert set(loaded.mod["main"].attrs.keys()) <= {"global_symbol"}
    assert loaded.notes == ("dynamic batch axis of input 'serving_input:0' fixed to 1",)


@pytest.mark.parametrize(
    ("padding", "strides", "kernel", "size", "cropped"),
    [
        ("VALID", (2, 2), (2, 2), (8, 10), (0, 0)),
        ("VALID", (2, 3), (3, 3), (10, 16), (0, 0)),  # one row and one column more than the kernel reaches
        ("SAME", (2, 2), (4, 3), (8, 9), (1, 1)),
        ("SAME", (3, 2), (1, 2), (12, 10), (0, 0)),  # a kernel shorter than its stride
    ],
)
def test_a_transposed_convolution(tmp_path, rng, run, padding, strides, kernel, size, cropped) -> None:
    """Each input adds the kernel to its place; SAME cuts what a convolution of the output would have padded."""
    x = rng.standard_normal((1, 4, 5, 3)).astype(np.float32)
    weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((2, *kernel, 3), (2,)))
    wanted = np.zeros((1, 20, 20, 2))
    for i, j in np.ndindex(4, 5):
        rows, columns = (slice(n * s, n * s + k) for n, s, k in zip((i, j), strides, kernel, strict=True))
        wanted[:, rows, columns] += np.einsum("nc,ohwc->nhwo", x[:, i, j], weight)
    wanted = np.maximum(wanted[:, cropped[0] : cropped[0] + size[0], cropped[1] : cropped[1] + size[1]] + bias, 0)
    tensors = [
        Tensor("x", x.shape),
        Tensor("model/up/kernel", weight.shape, weight),
        Tensor("model/up/shape", (4,), np.array([1, *size, 2], np.int32), "int32"),
        Tensor("model/up/bias", (2,), bias),
        Tensor("Identity", (1, *size, 2)),
    ]
    operator = transposed_operator(getattr(tflite.Padding, padding), strides, tflite.ActivationFunctionType.RELU)
    loaded = load_model(write(tmp_path / "up.tflite", tensors, graph_operators=[operator]))
    (got,) = run(loaded, x)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


def test_another_batch(tensors, tmp_path, rng, run) -> None:
    loaded = load_model(write(tmp_path / "net.tflite", tensors), batch=3)
    x = rng.standard_normal((3, 4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(run(loaded, x)[0], classified(tensors, x), rtol=0, atol=1e-4)


def test_other_sizes_than_the_file_s(tensors, tmp_path, rng, run) -> None:
    """Of 5 rows SAME pads one on each side, of the file's 4 one behind."""
    tensors[0].dynamic = 3
    tensors[4].data = np.array([-1, 27], np.int32)
    tensors[6].shape, tensors[6].data = (5, 27), rng.standard_normal((5, 27)).astype(np.float32)
    path = write(tmp_path / "net.tflite", tensors)
    with pytest.raises(UnsupportedModelError, match="--input-shape serving_input:0=1x224x224x2"):
        load_model(path)
    loaded = load_model(path, input_shapes={"serving_input:0": (1, 5, 5, 2)})
    x = rng.standard_normal((1, 5, 5, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    wanted = np.zeros((3, 3, 3))
    for i, j in np.ndindex(3, 3):
        window = padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        wanted[i, j] = np.einsum("hwc,ohwc->o", window, tensors[1].data) + tensors[2].data
    wanted = np.maximum(wanted, 0).reshape(1, -1) @ tensors[6].data.T + tensors[7].data
    np.testing.assert_allclose(run(loaded, x)[0], wanted, rtol=0, atol=1e-4)


def test_a_result_of_the_file_s_own_size_is_not_resized(tmp_path, rng) -> None:
    tensors = [
        Tensor("x", (1, 4, 5, 3), dynamic=3),
        Tensor("model/up/kernel", (2, 2, 2, 3), rng.standard_normal((2, 2, 2, 3)).astype(np.float32)),
        Tensor("model/up/shape", (4,), np.array([1, 8, 10, 2], np.int32), "int32"),
        Tensor("model/up/bias", (2,), np.zeros(2, np.float32)),
        Tensor("Identity", (1, 8, 10, 2)),
    ]
    operator = transposed_operator(tflite.Padding.SAME, (2, 2), tflite.ActivationFunctionType.NONE)
    path = write(tmp_path / "up.tflite", tensors, graph_operators=[operator])
    assert load_model(path, input_shapes={"x": (1, 4, 5, 3)})
    with pytest.raises(UnsupportedModelError, match=r"operator TRANSPOSE_CONV \('up'\).*with the sizes wanted"):
        load_model(path, input_shapes={"x": (1, 6, 5, 3)})


def test_names_are_those_of_the_weights(tensors, tmp_path, operators) -> None:
    found = operators(load_model(write(tmp_path / "net.tflite", tensors)))
    assert (found["conv2d"], found["dense"], found["flatten"]) == ("relax.nn.conv2d", "relax.matmul", "relax.reshape")
    assert {"conv2d_add", "conv2d_relu", "dense_add"} <= set(found)


def test_int8_weights_of_a_float_network_are_dequantized(tensors, tmp_path, rng, run) -> None:
    integers = rng.integers(-127, 128, (3, 3, 3, 2)).astype(np.int8)
    dense = rng.integers(-127, 128, (5, 12)).astype(np.int8)
    scales = tuple(float(np.float32(s)) for s in (0.01, 0.02, 0.03))
    tensors[1] = Tensor("model/conv2d/Conv2D", (3, 3, 3, 2), integers, "int8", scales)  # one scale a channel
    tensors[6] = Tensor("model/dense/MatMul", (5, 12), dense, "int8", (0.25,))
    loaded = load_model(write(tmp_path / "net.tflite", tensors))
    assert loaded.notes[1] == "int8 weights of 2 tensors (dynamic range quantization) dequantized to float32"
    tensors[1].data = integers * np.array(scales).reshape(3, 1, 1, 1)
    tensors[6].data = dense * 0.25
    x = rng.standard_normal((1, 4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(run(loaded, x)[0], classified(tensors, x), rtol=1e-5, atol=1e-3)  # values up to 2000


def test_a_quantized_network_is_read_as_the_real_one(tensors, tmp_path, rng, run) -> None:
    """Bytes in and out, biases of 32 bits, one of them without a scale: what they stand for, and their rounding."""
    integers = {i: rng.integers(-127, 128, tensors[i].shape).astype(np.int8) for i in (1, 6)}
    scales = tuple(float(np.float32(s)) for s in (0.01, 0.02, 0.03))
    for i, scale, zero in ((0, 0.05, -8), (3, 0.1, -128), (5, 0.1, -128), (8, 0.25, 3)):
        tensors[i].dtype, tensors[i].scales, tensors[i].zeros = "int8", (scale,), (zero,)
    tensors[1].dtype, tensors[1].scales, tensors[1].data = "int8", scales, integers[1]
    tensors[6].dtype, tensors[6].scales, tensors[6].data = "int8", (0.5,), integers[6]
    tensors[2].dtype, tensors[2].data = "int32", np.array([100, -200, 300], np.int32)
    tensors[7].dtype, tensors[7].scales = "int32", (0.05,)
    tensors[7].data = np.array([9, -8, 7, -6, 5], np.int32)
    loaded = load_model(write(tmp_path / "net.tflite", tensors))
    real = {1: integers[1] * np.float32(scales).reshape(3, 1, 1, 1), 2: [100, -200, 300] * np.float32(scales) * 0.05}
    for i, values in (real | {6: integers[6] * 0.5, 7: tensors[7].data * 0.05}).items():
        tensors[i].data = values
    x = rng.standard_normal((1, 4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(run(loaded, x)[0], classified(tensors, x), rtol=1e-5, atol=1e-3)  # values up to 2000
    assert loaded.stored is not None and "quantized elsewhere" in loaded.notes[-1]
    assert loaded.stored.tensors["serving_input_0"] == TensorQuant(8, 0.05000000074505806, 120)
    assert set(loaded.stored.weights.values()) == {scales, (0.5,)}


def test_a_relu_that_integers_imply_is_put_back(tensors, tmp_path, rng, run) -> None:
    """They end at zero, where the file has no activation; the result is cut at 0, and where its integers end above."""
    for i, scale, zero in ((0, 0.05, -8), (3, 0.1, -128), (5, 0.1, -128), (8, 0.25, -128)):
        tensors[i].dtype, tensors[i].scales, tensors[i].zeros = "int8", (scale,), (zero,)
    loaded = load_model(write(tmp_path / "net.tflite", tensors))
    x = rng.standard_normal((1, 4, 4, 2)).astype(np.float32) * 30
    wanted = classified(tensors, x)
    assert wanted.min() < 0 and wanted.max() > 63.75
    np.testing.assert_allclose(run(loaded, x)[0], np.clip(wanted, 0, 63.75), rtol=0, atol=1e-3)


def test_half_precision_weights_behind_dequantize(tensors, tmp_path, rng, run) -> None:
    half = {i: tensors[i].data.astype(np.float16) for i in (1, 6)}
    stored = [Tensor(f"half{i}", tensors[i].shape, data, "float16") for i, data in half.items()]
    tensors[1].data = tensors[6].data = None
    kind = tflite.BuiltinOperator.DEQUANTIZE, tflite.BuiltinOptions.DequantizeOptions, dequantize_options
    operators = [(*kind, (8,), 1), (*kind, (9,), 6), *OPERATORS[:2], (*OPERATORS[2][:4], 10)]
    path = write(tmp_path / "net.tflite", [*tensors[:8], *stored, tensors[8]], graph_operators=operators)
    loaded = load_model(path)
    for i, data in half.items():
        tensors[i].data = data.astype(np.float32)
    x = rng.standard_normal((1, 4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(run(loaded, x)[0], classified(tensors, x), rtol=0, atol=1e-4)


def test_a_custom_operator_is_refused_by_its_own_name(tensors, tmp_path) -> None:
    path = write(tmp_path / "net.tflite", tensors, tflite.BuiltinOperator.CUSTOM, custom="Convolution2DTransposeBias")
    with pytest.raises(UnsupportedModelError, match="custom operator 'Convolution2DTransposeBias' is not supported"):
        load_model(path)


def test_an_axis_is_added(tmp_path, rng, run) -> None:
    x = rng.standard_normal((2, 3)).astype(np.float32)
    axis = Tensor("axis", (1,), np.array([-2], np.int32), "int32")
    operator = tflite.BuiltinOperator.EXPAND_DIMS, tflite.BuiltinOptions.ExpandDimsOptions, expand_options, (0, 1), 2
    path = write(
        tmp_path / "net.tflite", [Tensor("x", (2, 3)), axis, Tensor("y", (2, 1, 3))], graph_operators=[operator]
    )
    np.testing.assert_array_equal(run(load_model(path), x)[0], x[:, None])


def test_non_finite_weights_are_refused_by_name(tensors, tmp_path) -> None:
    tensors[6].data[0, 0] = np.nan
    with pytest.raises(UnsupportedModelError, match="NaN in tensor 'model/dense/MatMul'"):
        load_model(write(tmp_path / "net.tflite", tensors))


def test_an_unknown_operator_is_named(tensors, tmp_path, capfd) -> None:
    path = write(tmp_path / "net.tflite", tensors, tflite.BuiltinOperator.EMBEDDING_LOOKUP_SPARSE)
    with pytest.raises(UnsupportedModelError, match=r"^net.tflite: [^\n]*EMBEDDING_LOOKUP_SPARSE[^\n]*$"):
        load_model(path)
    gc.collect()  # TVM would complain when an unfinished builder dies
    assert capfd.readouterr() == ("", "")


def test_two_results_of_one_name_are_refused(tensors, tmp_path) -> None:
    tensors[5].name = tensors[3].name
    with pytest.raises(UnsupportedModelError, match="two tensors have the name"):
        load_model(write(tmp_path / "net.tflite", tensors))


def test_files_that_are_no_tflite_are_refused_in_one_line(tensors, tmp_path) -> None:
    path = tmp_path / "bad.tflite"
    data = write(path, tensors).read_bytes()
    for content in (b"", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="not a TFLite file"):
            load_model(path)
    for share in (8, 4, 2):
        path.write_bytes(data[: len(data) // share])
        with pytest.raises((FileFormatError, UnsupportedModelError), match=r"^[^\n]+$"):
            load_model(path)
