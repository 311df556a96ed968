"""Largest and smallest elements, where all of them are infinite."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mpq import targets
from tvm_mpq.passes.realize import finish

LOWEST = np.finfo(np.float32).min


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize(
    ("shape", "axes", "keepdims"),
    [((5, 7), [-1], True), ((5, 7), None, False), ((5, 3, 2, 9), [1, 3], False), ((5, 1000), [1], True)],
)
def test_of_infinities(
    name: str, shape: tuple[int, ...], axes: list[int] | None, keepdims: bool, rng: np.random.Generator
) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    x[0], x[1], x[2], x[3] = -np.inf, np.inf, LOWEST, -LOWEST
    builder = relax.BlockBuilder()
    data = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [data]):
        with builder.dataflow():
            out = builder.emit_output(getattr(relax.op, name)(data, axes, keepdims))
        builder.emit_func_output(out)
    row = targets.local_row()
    executable = relax.build(finish(builder.get(), targets.features(row)), targets.to_tvm(row, 1))
    found = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    wanted = getattr(np, name)(x, axis=None if axes is None else tuple(axes), keepdims=keepdims)
    np.testing.assert_array_equal(found, wanted)
    assert found.shape == wanted.shape
