"""What TVM's importer drops or misreads of TFLite operators is right, or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tflite

from mpq_testing.tflite_models import Tensor, operator, write
from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import load_model


class Net:
    """One input and many operators on it, each with its own result and what that has to be."""

    def __init__(self, x: Any) -> None:
        self.x, self.tensors, self.operators = x, [Tensor("x", x.shape)], []
        self.wanted: dict[int, Any] = {}

    def constant(self, values: Any, dtype: str = "int32") -> int:
        array = np.array(values, dtype)
        return self.tensor(Tensor(f"constant{len(self.tensors)}", array.shape, array, dtype))

    def tensor(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add(self, code: str, inputs: tuple[int, ...], wanted: Any, options: str = "", **fields: Any) -> None:
        every = wanted if isinstance(wanted, list) else [wanted]
        places = [self.tensor(Tensor(f"{code}{len(self.tensors)}", np.shape(w), dtype=str(w.dtype))) for w in every]
        self.operators.append(operator(code, inputs, places if len(places) > 1 else places[0], options, **fields))
        self.wanted |= dict(zip(places, every, strict=True))

    def save(self, path: Any) -> Any:
        return write(path, self.tensors, graph_operators=self.operators, outputs=list(self.wanted))

    def check(self, path: Any, run: Any) -> None:
        loaded = load_model(self.save(path))
        for place, got in zip(self.wanted, run(loaded, self.x), strict=True):
            wanted, name = self.wanted[place], self.tensors[place].name
            assert (got.shape, str(got.dtype)) == (np.shape(wanted), str(wanted.dtype)), name
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5, err_msg=name)


def test_options_and_axes(tmp_path, rng, run) -> None:
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    net = Net(x)
    powers = np.exp(2.5 * x)
    net.add("SOFTMAX", (0,), powers / powers.sum(-1, keepdims=True), "SoftmaxOptions", Beta=2.5)
    tanh = np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x**3))
    net.add("GELU", (0,), x * (1 + tanh) / 2, "GeluOptions", Approximate=True)
    net.add("MEAN", (0, net.constant([1, -2])), x.mean(1), "ReducerOptions", KeepDims=False)
    net.add("SPLIT_V", (0, net.constant([1, -1]), net.constant(-1)), [x[..., :1], x[..., 1:]], "SplitVOptions")
    backwards = np.cumsum(x[:, ::-1], 1, np.float32)[:, ::-1]
    net.add("CUMSUM", (0, net.constant(1)), backwards, "CumsumOptions", Reverse=True)
    net.add("ARG_MAX", (0, net.constant(-1)), x.argmax(-1).astype(np.int32), "ArgMaxOptions", OutputType=2)
    picked = rng.integers(0, 4, (2, 5))
    rows = np.stack([x[n][:, picked[n]] for n in range(2)])
    net.add("GATHER", (0, net.constant(picked)), rows, "GatherOptions", Axis=2, BatchDims=1)
    net.add("GATHER_ND", (0, net.constant([[1, 2], [0, 1]])), x[[1, 0], [2, 1]], "GatherNdOptions")
    summed = np.zeros((3, 3, 4), np.float32)
    summed[2] = x[0] + x[1]
    net.add("SCATTER_ND", (net.constant([[2], [2]]), 0, net.constant([3, 3, 4])), summed, "ScatterNdOptions")
    rest = net.constant(rng.standard_normal((2, 3, 4)), "float32")
    chosen = np.where(np.array([True, False])[:, None, None], x, net.tensors[rest].data)
    net.add("SELECT", (net.constant([True, False], "bool"), 0, rest), chosen, "SelectOptions")
    net.add("CAST", (0,), x.astype(np.int32), "CastOptions", OutDataType=tflite.TensorType.FLOAT32)
    wide = np.pad(x, ((0, 0), (2, 1), (0, 3)), "symmetric")
    net.add("MIRROR_PAD", (0, net.constant([[0, 0], [2, 1], [0, 3]])), wide, "MirrorPadOptions", Mode=1)
    weight, product = rng.standard_normal((5, 4)).astype(np.float32), "FullyConnectedOptions"
    place = net.constant(weight, "float32")
    net.add("FULLY_CONNECTED", (0, place, -1), (x @ weight.T).reshape(6, 5), product)
    net.add("FULLY_CONNECTED", (0, place, -1), x @ weight.T, product, KeepNumDims=True)
    right = rng.standard_normal((3, 1, 6, 4)).astype(np.float32)
    wanted = x @ right.swapaxes(2, 3)
    net.add("BATCH_MATMUL", (0, net.constant(right, "float32")), wanted, "BatchMatMulOptions", AdjY=True)
    net.check(tmp_path / "net.tflite", run)


def test_maps(tmp_path, rng, run) -> None:
    x = rng.standard_normal((4, 3, 5, 1)).astype(np.float32)
    net = Net(x)
    blocks, crops = net.constant([2, 1]), net.constant([[1, 0], [0, 2]])
    joined = np.stack([x[:2], x[2:]], 2).reshape(2, 6, 5, 1)[:, 1:, :3]
    net.add("BATCH_TO_SPACE_ND", (0, blocks, crops), joined, "BatchToSpaceNDOptions")
    padded = np.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)))
    parted = np.concatenate([padded[:, ::2], padded[:, 1::2]])
    net.add("SPACE_TO_BATCH_ND", (0, blocks, crops), parted, "SpaceToBatchNDOptions")
    nearest, linear = "ResizeNearestNeighborOptions", "ResizeBilinearOptions"
    doubled = x[:, [0, 1, 1, 2, 2]][:, :, [0, 2, 4]]  # rows 0, 0.5, 1, 1.5, 2: a half goes up
    net.add("RESIZE_NEAREST_NEIGHBOR", (0, net.constant([5, 3])), doubled, nearest, AlignCorners=True)
    centred = x[:, [0, 2]][:, :, [1, 3]]
    net.add("RESIZE_NEAREST_NEIGHBOR", (0, net.constant([2, 2])), centred, nearest, HalfPixelCenters=True)
    middle = np.zeros((4, 1, 9, 1), np.float32)
    middle[:, :, ::2], middle[:, :, 1::2] = x[:, :1], (x[:, :1, :-1] + x[:, :1, 1:]) / 2
    net.add("RESIZE_BILINEAR", (0, net.constant([1, 9])), middle, linear, AlignCorners=True)
    net.add("SQUEEZE", (0,), x[..., 0], "SqueezeOptions")
    net.check(tmp_path / "net.tflite", run)


@pytest.mark.parametrize("multiplier", [0, 3])
def test_channels_tell_a_depthwise_multiplier(tmp_path, rng, run, multiplier) -> None:
    """Whatever the file says it is; strides and dilation stay what they were."""
    net = Net(rng.standard_normal((1, 7, 6, 2)).astype(np.float32))
    weight = rng.standard_normal((1, 2, 2, 4)).astype(np.float32)
    places = (0, net.constant(weight, "float32"), net.constant(np.zeros(4), "float32"))
    x = np.repeat(net.x, 2, axis=3)
    wanted = sum(x[:, 3 * i : 3 * i + 3 : 2, j : j + 5] * weight[0, i, j] for i in (0, 1) for j in (0, 1))
    fields = {"Padding": 1, "StrideH": 2, "StrideW": 1, "DilationHFactor": 3, "DepthMultiplier": multiplier}
    net.add(
        "DEPTHWISE_CONV_2D",
        places,
        np.maximum(wanted, 0),
        "DepthwiseConv2DOptions",
        FusedActivationFunction=1,
        **fields,
    )
    net.check(tmp_path / "net.tflite", run)


def test_filters_that_no_multiplier_fits_are_refused(tmp_path, rng) -> None:
    net = Net(rng.standard_normal((1, 2, 2, 2)).astype(np.float32))
    places = (0, net.constant(np.ones((1, 1, 1, 3)), "float32"))
    net.add(
        "DEPTHWISE_CONV_2D", places, np.zeros((1, 2, 2, 3), np.float32), "DepthwiseConv2DOptions", StrideH=1, StrideW=1
    )
    with pytest.raises(UnsupportedModelError, match="its 3 filters are no multiple of its 2 input channels"):
        load_model(net.save(tmp_path / "net.tflite"))


def test_a_recurrent_layer_with_time_first(tmp_path, rng, run) -> None:
    x = rng.standard_normal((2, 1, 3)).astype(np.float32)
    net = Net(x)
    w, r = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3), (4, 4)))
    first = np.tanh(x[0] @ w.T)
    wanted = np.stack([first, np.tanh(x[1] @ w.T + first @ r.T)])
    zeros = np.zeros(4)
    inputs = (0, *(net.constant(c, "float32") for c in (w, r, zeros)), net.tensor(Tensor("h", (1, 4), variable=True)))
    fields = {"TimeMajor": True, "FusedActivationFunction": tflite.ActivationFunctionType.TANH}
    net.add("UNIDIRECTIONAL_SEQUENCE_RNN", inputs, wanted, "SequenceRNNOptions", **fields)
    net.check(tmp_path / "net.tflite", run)
    assert "zero when a run starts" in load_model(net.save(tmp_path / "net.tflite")).notes[-1]


def test_a_shape_that_is_computed_from_sizes(tmp_path, rng, run) -> None:
    net = Net(rng.standard_normal((2, 3)).astype(np.float32))
    net.tensors[0].dynamic = 1
    net.tensors[0].shape = (1, 6)
    net.x = net.x.reshape(1, 6)
    net.add("SHAPE", (0,), np.array([1, 6], np.int32), "ShapeOptions", OutType=tflite.TensorType.INT32)
    net.add("RESHAPE", (0, len(net.tensors) - 1), net.x, "ReshapeOptions")
    net.check(tmp_path / "net.tflite", run)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (("ADD", (0, 0), "AddOptions", {"FusedActivationFunction": 4}), "LiteRT leaves its fused activation TANH out"),
        (("STRIDED_SLICE", (0, 1, 1, 1), "StridedSliceOptions", {"Offset": True}), "offset"),
        (("SVDF", (0, 0, 0, -1, 0), "SVDFOptions", {"Rank": 1}), "state between runs"),
        (("WHILE", (0,), "WhileOptions", {}), "decides as it runs"),
        (("RESHAPE", (0, 0), "ReshapeOptions", {}), "computed from data"),
        (("MATRIX_DIAG", (0,), "MatrixDiagOptions", {}), "TVM cannot compile it"),
        (("ABS", (0,), "AbsOptions", {}), r"has shape \[2, 5\] in the file, and \[2, 3\] as imported"),
    ],
)
def test_the_rest_is_refused_by_name(tmp_path, rng, case, message) -> None:
    """The last file is itself wrong: what an importer would make of it has another shape than it says."""
    code, inputs, options, fields = case
    net = Net(rng.standard_normal((2, 3)).astype(np.float32))
    net.constant([1, 1])
    shape = {"ABS": (2, 5), "MATRIX_DIAG": (2, 3, 3), "STRIDED_SLICE": (1, 1)}.get(code, (2, 3))
    net.add(code, inputs, np.zeros(shape, np.float32), options, **fields)
    with pytest.raises(UnsupportedModelError, match=rf"^net.tflite: operator {code} [^\n]*{message}[^\n]*$"):
        load_model(net.save(tmp_path / "net.tflite"))


def test_a_result_of_another_type_than_the_file_s_is_refused(tmp_path, rng) -> None:
    net = Net(rng.standard_normal((2, 3)).astype(np.float32))
    net.add("ABS", (0,), np.zeros((2, 3), np.int32), "AbsOptions")
    with pytest.raises(UnsupportedModelError, match="its result has type int32 in the file, and float32 as imported"):
        load_model(net.save(tmp_path / "net.tflite"))
