"""LowerTopk: the best elements of rows, in their order, equal ones in theirs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mpq.passes.lower_topk import LowerTopk
from tvm_mpq.passes.realize import finish
from tvm_mpq.targets import local_row, to_tvm_attrs

WIDTHS = {4: frozenset(), 8: frozenset({"avx2"})}
CASES = [  # shape, axis, k
    ((3, 1000), -1, 5),
    ((2, 33), 1, 16),
    ((7,), 0, 7),
    ((1, 40, 3), 1, 4),
    ((2, 1), 1, 1),
    ((1, 700), 1, 80),
]


def network(
    shape: tuple[int, ...], axis: int, k: int, largest: bool, ret: str = "both", n: str = "int64"
) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            found = builder.emit(relax.op.topk(x, k, axis, ret, largest, n))
            result = builder.emit_output(found)
        builder.emit_func_output(result)
    return builder.get()


def kernels(mod: tvm.IRModule) -> int:
    return sum(isinstance(f, tvm.tirx.PrimFunc) for f in mod.functions.values())


def compiled(mod: tvm.IRModule, cores: int = 1) -> Callable[[np.ndarray], list[np.ndarray]]:
    target = tvm.target.Target(to_tvm_attrs(local_row(), cores))
    machine = relax.VirtualMachine(tvm.compile(mod, target=target), tvm.cpu())
    return lambda x: [np.asarray(t.numpy()) for t in machine["main"](tvm.runtime.tensor(x))]


def expected(x: np.ndarray, axis: int, k: int, largest: bool) -> list[np.ndarray]:
    """By a stable sort, of which the first of equal elements comes first; NumPy puts NaN behind infinity."""
    if largest:  # the stable order of the reversed row, read from its end
        places = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        places = np.argsort(x, axis=axis, kind="stable")
    places = np.take(places, range(k), axis)
    return [np.take_along_axis(x, places, axis), places]


@pytest.mark.parametrize(("lanes", "largest"), [(4, True), (8, False)])
@pytest.mark.parametrize(("shape", "axis", "k"), CASES)
def test_equals_a_stable_sort(
    shape: tuple[int, ...], axis: int, k: int, largest: bool, lanes: int, rng: np.random.Generator
) -> None:
    """Few different numbers, so that many are equal, zeros of both signs, infinities and several NaN among them."""
    mod = LowerTopk(features=WIDTHS[lanes])(network(shape, axis, k, largest))
    assert kernels(mod) == 1
    run = compiled(mod)
    numbers = np.float32([-3, -1, -0.0, 0.0, 2, 2.5, 1e-45, np.inf, -np.inf, np.nan])
    x = rng.choice(np.append(numbers, np.array([0x7FC00001, 0xFFC00000], np.uint32).view(np.float32)), shape)
    for rows in (x, rng.standard_normal(shape).astype(np.float32), np.sort(x, axis), -np.sort(x, axis)):
        for found, want in zip(run(rows), expected(rows, axis, k, largest), strict=True):
            np.testing.assert_array_equal(found, want)


def test_two_threads_take_rows_each_and_places_may_be_narrow(rng: np.random.Generator) -> None:
    x = rng.standard_normal((64, 512)).astype(np.float32)
    mod = LowerTopk(threads=2)(network(x.shape, 1, 9, True, n="int32"))
    assert "T.parallel" in mod.script()
    values, places = compiled(finish(mod, frozenset(), 2), cores=2)(x)
    want = expected(x, 1, 9, True)
    np.testing.assert_array_equal(values, want[0])
    np.testing.assert_array_equal(places, want[1])
    assert places.dtype == np.int32


def test_what_is_left_alone() -> None:
    for args in (((2, 800), 1, 101, True), ((2, 800), 1, 5, True, "values")):
        mod = network(*args)
        assert LowerTopk()(mod).same_as(mod)
    lowered = LowerTopk()(network((2, 800), 1, 5, True))
    assert LowerTopk()(lowered).same_as(lowered)
