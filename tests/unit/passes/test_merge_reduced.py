"""Reductions over several axes at the end: the same values, over one axis."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mpq.passes.merge_reduced import MergeReduced

SHAPE = (2, 3, 7, 9)


def module(reduce, axes, keepdims) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(reduce(builder.emit(relax.op.nn.relu(x)), axes, keepdims))
        builder.emit_func_output(out)
    return builder.get()


def operators(mod: tvm.IRModule) -> list[str]:
    return [str(b.value.op.name) for block in mod["main"].body.blocks for b in block.bindings]


def run(mod: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    executable = tvm.compile(mod, target=tvm.target.Target({"kind": "llvm"}))
    return relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


CASES = [
    *(("mean", [2, 3], True), ("sum", [-1, 1, 2], False), ("max", None, True)),
    *(("min", [3, 2], False), ("prod", [2, 3], True), ("variance", [2, 3], True), ("std", [1, 2, 3], False)),
]


@pytest.mark.parametrize(("name", "axes", "keepdims"), CASES)
def test_values_stay(rng: np.random.Generator, name, axes, keepdims) -> None:
    before = module(getattr(relax.op, name), axes, keepdims)
    text = before.script()
    after = MergeReduced()(before)
    assert operators(after)[1] == "relax.reshape" and before.script() == text
    (merged,) = (
        b.value for block in after["main"].body.blocks for b in block.bindings if b.value.op.name == f"relax.{name}"
    )
    assert len(merged.attrs.axis) == 1 and operators(MergeReduced()(after)) == operators(after)
    x = rng.uniform(0.9, 1.1, SHAPE).astype(np.float32)
    want, got = run(before, x), run(after, x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5)  # some 400 roundings of 6e-8


@pytest.mark.parametrize("axes", [[3], [1, 2], [1, 3], [0]], ids=str)
def test_others_are_left_alone(axes) -> None:
    before = module(relax.op.mean, axes, False)
    assert operators(MergeReduced()(before)) == operators(before)
