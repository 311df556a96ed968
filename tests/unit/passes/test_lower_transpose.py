"""LowerTranspose: transposes of float matrices as kernels, exact on every width of vectors."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from mpq_testing.slowly import SLOW
from tvm_mpq.passes.lower_transpose import LowerTranspose
from tvm_mpq.passes.realize import finish
from tvm_mpq.targets import local_row, to_tvm_attrs

WIDTHS = {4: frozenset(), 8: frozenset({"avx2"}), 16: frozenset({"avx2", "avx512f"})}
"""Lanes -> features; LLVM splits what is wider than this CPU's vectors."""

CASES = [
    *[((2, 5, 7, c), (0, 3, 1, 2)) for c in (1, 2, 3, 4, 5, 7, 8, 17, 33)],
    *[((1, c, 9, 13), (0, 2, 3, 1)) for c in (1, 3, 4, 7, 31, 32)],
    ((1, 1, 3, 1000), (0, 3, 1, 2)),
    ((33, 17), (1, 0)),
    ((1, 1, 40), (0, 2, 1)),
    ((5, 3, 2, 9, 4), (0, 1, 3, 4, 2)),
    ((2, 3, 6, 5, 7), (0, 3, 4, 1, 2)),
    ((6, 7, 2, 29), (0, 1, 3, 2)),
]


def network(shape: tuple[int, ...], axes: tuple[int, ...] | None, dtype: str = "float32") -> tvm.IRModule:
    """Two equal transposes of different tensors, their sum behind them."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            turned = builder.emit(relax.op.permute_dims(x, axes))
            twice = builder.emit(relax.op.permute_dims(builder.emit(relax.op.add(x, x)), axes))
            result = builder.emit_output(relax.Tuple([turned, builder.emit(relax.op.add(turned, twice))]))
        builder.emit_func_output(result)
    return builder.get()


def kernels(mod: tvm.IRModule) -> list[tvm.tirx.PrimFunc]:
    return [f for f in mod.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]


def run(mod: tvm.IRModule, x: np.ndarray, cores: int = 1) -> list[np.ndarray]:
    target = tvm.target.Target(to_tvm_attrs(local_row(), cores))
    machine = relax.VirtualMachine(tvm.compile(mod, target=target), tvm.cpu())
    return [np.asarray(t.numpy()) for t in machine["main"](tvm.runtime.tensor(x))]


@pytest.mark.parametrize(
    ("shape", "axes", "lanes"),
    [  # every case at one width at least; those that fill a vector of one do not fill those of another
        pytest.param(shape, axes, lanes, marks=SLOW if (i + j) % 3 == 1 else [])
        for i, (shape, axes) in enumerate(CASES)
        for j, lanes in enumerate(WIDTHS)
    ],
)
def test_equals_numpy(shape: tuple[int, ...], axes: tuple[int, ...], lanes: int, rng: np.random.Generator) -> None:
    lowered = LowerTranspose(features=WIDTHS[lanes], threads=1)(network(shape, axes))
    moves = [a for a in axes if shape[a] != 1] != sorted(a for a in axes if shape[a] != 1)
    assert len(kernels(lowered)) == moves  # one serves both; where only axes of one element move, none does
    x = rng.standard_normal(shape).astype(np.float32)
    turned, total = run(lowered, x)
    assert np.array_equal(turned, x.transpose(axes)) and np.array_equal(total, (3 * x).transpose(axes))


@pytest.mark.parametrize("shape", [(2, 67, 43, 21), (1, 131, 131, 3)])
def test_two_threads(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    lowered = LowerTranspose(features=WIDTHS[16], threads=2)(network(shape, (0, 3, 1, 2)))
    assert "T.parallel(" in kernels(lowered)[0].script()
    x = rng.standard_normal(shape).astype(np.float32)
    assert np.array_equal(run(lowered, x, 2)[0], x.transpose(0, 3, 1, 2))


def test_all_axes_reversed_by_default() -> None:
    assert len(kernels(LowerTranspose()(network((6, 9), None)))) == 1


@pytest.mark.parametrize(
    ("shape", "axes", "dtype"),
    [((2, 6, 5, 8), (0, 2, 1, 3), "float32"), ((4, 6, 5), (2, 1, 0), "float32"), ((4, 6), (1, 0), "int32")],
)
def test_leaves_others_alone(shape: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> None:
    mod = network(shape, axes, dtype)
    tvm.ir.assert_structural_equal(LowerTranspose()(mod), mod)


def test_input_is_unchanged_and_a_second_run_changes_nothing() -> None:
    mod = network((1, 6, 7, 5), (0, 3, 1, 2))
    before = mod.script()
    lowered = LowerTranspose()(mod)
    assert mod.script() == before
    tvm.ir.assert_structural_equal(LowerTranspose()(lowered), lowered)


def test_realize_lowers_transposes() -> None:
    """Its last passes leave none to the scheduler of float operators."""
    finished = finish(network((1, 20, 18, 32), (0, 3, 1, 2)), WIDTHS[8])
    assert "permute_dims" not in finished.script() and sum("T.Shuffle(" in f.script() for f in kernels(finished)) == 1
