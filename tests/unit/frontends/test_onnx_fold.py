"""Constant integer arithmetic, as exporters write paddings and shapes, is computed before the import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import load_model
from tvm_mpq.frontends.onnx_fold import evaluated

node = helper.make_node


def torch_pad() -> list[onnx.NodeProto]:
    """What torch makes of F.pad(x, (1, 2, 3, 4)): pairs from the last axis on, turned round."""
    return [
        node("Constant", [], ["n"], value=numpy_helper.from_array(np.array([4], np.int64))),
        node("ConstantOfShape", ["n"], ["zeros"], value=numpy_helper.from_array(np.array([0], np.int64))),
        node("Concat", ["given", "zeros"], ["all"], axis=0),
        node("Reshape", ["all", "two"], ["pairs"]),
        node("Slice", ["pairs", "last", "first", "axis", "back"], ["turned"]),
        node("Transpose", ["turned"], ["columns"], perm=[1, 0]),
        node("Reshape", ["columns", "flat"], ["row"]),
        node("Cast", ["row"], ["p"], to=TensorProto.INT64),
        node("Pad", ["x", "p"], ["y"], mode="constant"),
    ]


WEIGHTS = {
    "given": np.array([1, 2, 3, 4], np.int64),
    "two": np.array([-1, 2], np.int64),
    "last": np.array([-1], np.int64),
    "first": np.array([np.iinfo(np.int64).min], np.int64),
    "axis": np.array([0], np.int64),
    "back": np.array([-1], np.int64),
    "flat": np.array([-1], np.int64),
}


def test_padding_as_torch_writes_it(save_onnx: Callable[..., Path], run: Any, operators: Any) -> None:
    x = np.random.default_rng(1).standard_normal((1, 2, 5, 6)).astype(np.float32)
    loaded = load_model(save_onnx(torch_pad(), {"x": (x.shape, "float32")}, WEIGHTS))
    assert list(operators(loaded).values()) == ["relax.nn.pad"]
    np.testing.assert_array_equal(run(loaded, x)[0], np.pad(x, ((0, 0), (0, 0), (3, 4), (1, 2))))


def test_padding_that_depends_on_an_input_is_refused(save_onnx: Callable[..., Path]) -> None:
    inputs = {"x": ((1, 2, 5, 6), "float32"), "given": ((4,), "int64")}
    weights = {n: w for n, w in WEIGHTS.items() if n != "given"}
    with pytest.raises(UnsupportedModelError, match="Pad"):
        load_model(save_onnx(torch_pad(), inputs, weights))


def test_what_is_computed_and_what_is_left_alone() -> None:
    """Constants, also large ones; but not what reads an input."""
    tensors = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "large": np.zeros(5000, np.int64),
    }
    constants = {n: numpy_helper.from_array(v, n) for n, v in tensors.items()}
    for name in ("weight", "large"):
        found = evaluated(node("Neg", [name], ["y"]), constants, 17)
        assert found is not None
        np.testing.assert_array_equal(found["y"], -tensors[name])
    for left in (
        node("Neg", ["x"], ["y"]),
        node("Add", ["weight", "x"], ["y"]),
        node("NotAnOperator", ["weight"], ["y"]),
        node("Neg", ["weight"], ["y"], domain="org.example"),
    ):
        assert evaluated(left, constants, 17) is None
