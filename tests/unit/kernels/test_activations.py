"""Activations as arithmetic: against float64 over their range, in vectors and scalars."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit import Parameter, activate, function, loop
from tvm_mpq.kernels.emit.activations import is_known
from tvm_mpq.numerics.activations import apply

ACTIVATIONS = (
    "none", "relu", "clip:0.0:6.0", "clip:-1.5:0.25", "hard_swish", "hard_sigmoid",
    "sigmoid", "silu", "gelu", "gelu_tanh", "tanh", "leaky_relu:0.1", "leaky_relu:-0.5",
)  # fmt: skip
X = np.concatenate([np.linspace(-90, 90, 4001), np.linspace(-1, 1, 2012), [0.0, 1e-30, -1e-30]]).astype(np.float32)


@pytest.mark.parametrize("lanes", [8, 1])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_float64(activation: str, lanes: int) -> None:
    size = X.size // lanes * lanes
    with function([Parameter("x", (size,), "float32"), Parameter("y", (size,), "float32")]) as f:
        with loop(size // lanes) as i:
            f.flat("y").store(i * lanes, activate(f.flat("x").load(i * lanes, lanes), activation))
    lib = tvm.compile(tvm.IRModule({"main": f.func}), target=tvm.target.Target("llvm"))
    y = tvm.runtime.tensor(np.full(size, np.nan, np.float32))
    lib["main"](tvm.runtime.tensor(X[:size]), y)
    exact = apply(activation, X[:size])
    assert np.all(abs(y.numpy() - exact) <= 1e-6 * np.maximum(abs(exact), 1))


def test_known_are_those_with_as_many_numbers_as_they_need() -> None:
    assert all(map(is_known, ACTIVATIONS))
    assert not any(map(is_known, ("", "clip", "clip:0", "clip:0:x", "relu:1", "leaky_relu", "clip:0:nan", "swish")))
    assert not is_known("clip:0:inf")


def test_refuses_an_unknown_name() -> None:
    with function([Parameter("x", (8,), "float32")]) as f:
        with pytest.raises(InvalidValueError, match="an activation is one of none, relu"):
            activate(f.flat("x").load(0, 8), "sine")
