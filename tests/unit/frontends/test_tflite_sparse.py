"""Sparse weights of TFLite files, behind DENSIFY or read as they are, are the matrices that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpq_testing.tflite_models import Sparsity, Tensor, operator, write
from tvm_mpq.frontends import load_model

# [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 3, 4], [0, 0, 5, 6]]
ROWS = Sparsity((0, 1), (), (4, ([0, 2, 2, 4, 6], [0, 1, 2, 3, 2, 3])), "uint8")
COLUMNS = Sparsity((1, 0), (), (4, ([0, 1, 2, 4, 6], [0, 0, 2, 3, 2, 3])), "uint16")
PAIRS = Sparsity((0, 1, 2), (1,), (4, ([0, 1, 1, 2, 3], [0, 1, 1]), 2))
SQUARES = Sparsity((0, 1, 3, 2), (0, 1), (2, ([0, 1, 2], [0, 1]), 2, 2))  # a block's columns before its rows
DENSE = np.array([[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 3, 4], [0, 0, 5, 6]], np.float32)


@pytest.mark.parametrize("densify", [True, False])
@pytest.mark.parametrize(
    ("sparsity", "values"),
    [
        (ROWS, [1, 2, 3, 4, 5, 6]),
        (COLUMNS, [1, 2, 3, 5, 4, 6]),
        (PAIRS, [1, 2, 3, 4, 5, 6]),
        (SQUARES, [1, 0, 2, 0, 3, 5, 4, 6]),
    ],
)
def test_floats(tmp_path, rng, sparsity, values, densify) -> None:
    assert_weight(tmp_path, Tensor("w", (4, 4), np.array(values, np.float32), sparsity=sparsity), DENSE, densify)


@pytest.mark.parametrize("densify", [True, False])
def test_integers(tmp_path, rng, densify) -> None:
    stored = Tensor("w", (4, 4), np.arange(1, 7, dtype=np.int8), "int8", (0.5,), sparsity=ROWS)
    assert_weight(tmp_path, stored, DENSE / 2, densify)


def assert_weight(path: Any, stored: Tensor, wanted: Any, densify: bool) -> None:
    tensors = [Tensor("x", (2, 4)), stored, Tensor("y", (2, 4))]
    made = [operator("FULLY_CONNECTED", (0, 1, -1), 2, "FullyConnectedOptions")]
    if densify:
        tensors.append(Tensor("dense", (4, 4), None, stored.dtype, stored.scales))
        made = [operator("DENSIFY", (1,), 3, "DensifyOptions"), (*made[0][:3], (0, 3, -1), 2)]
    loaded = load_model(write(path / "net.tflite", tensors, graph_operators=made, outputs=[2]))
    constants = []
    for binding in loaded.mod["main"].body.blocks[0].bindings:
        constants += [a.value.numpy() for a in getattr(binding.value, "args", ()) if hasattr(a, "value")]
    np.testing.assert_array_equal(constants[0], wanted)
