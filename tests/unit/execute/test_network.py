"""Accuracy of outputs, by labels or against fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mpq.errors import DataError
from tvm_mpq.execute.accuracy import accuracy, check_labels, relative_error
from tvm_mpq.execute.network import PlannedMemory, build
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.schema import Plan


def scores(*best: int, classes: int = 4) -> list[np.ndarray]:
    return [np.eye(classes, dtype=np.float32)[[i]] for i in best]


def test_top1() -> None:
    found = accuracy(scores(0, 1, 2, 3), scores(0, 0, 0, 0), np.array([0, 1, 0, 0]), classifies=True)
    assert (found.metric, found.value, found.hits, found.samples) == ("top1", 50.0, 2, 4)
    assert (found.better, found.worse) == (1, 2)  # fp32 names class 0 for all: right are the first, third and fourth


def test_agreement() -> None:
    found = accuracy(scores(0, 1, 2, 3), scores(0, 1, 2, 0), None, classifies=True)
    assert (found.metric, found.value, found.hits, found.samples) == ("agreement", 75.0, 3, 4)
    assert (found.better, found.worse) == (0, 1)


def test_batches_and_trailing_ones() -> None:
    batch = np.eye(4, dtype=np.float32)[[2, 1]].reshape(2, 4, 1, 1)
    found = accuracy([batch, batch], [batch, batch], np.array([2, 1, 2, 0, 9]), classifies=True)
    assert (found.hits, found.samples) == (3, 4)  # the fifth label's sample filled no batch


def test_relative_error() -> None:
    reference = [np.array([[3.0, 4.0]], np.float32)] * 2
    found = accuracy([np.array([[3.0, 4.5]]), np.array([[3.0, 4.0]])], reference, None, classifies=False)
    assert found.metric == "relative_error" and found.value == pytest.approx(5.0)


@pytest.mark.parametrize("classifies", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_have_no_accuracy(value: float, classifies: bool) -> None:
    """NaN's arg max is a class like any other, and would agree with itself."""
    good, bad = scores(0, 1), scores(0, 1)
    bad[1][0, 1] = value
    with pytest.raises(DataError, match="the built mixed network gives NaN or infinity for sample 1"):
        accuracy(bad, good, np.array([0, 1]), classifies=classifies, whose="the built mixed network")
    with pytest.raises(DataError, match="the fp32 network gives NaN or infinity for sample 1"):
        accuracy(good, bad, None, classifies=classifies)
    assert relative_error(bad[1], good[1]) == relative_error(good[1], bad[1]) == np.inf


def test_labels_need_class_scores() -> None:
    check_labels(None, classifies=False)
    check_labels(np.array([1]), classifies=True)
    with pytest.raises(DataError, match="labels need a model whose first output is one score per class"):
        check_labels(np.array([1]), classifies=False)


@pytest.mark.parametrize(("calls", "tensors"), [(1, 0), (2, 1), (3, 2), (9, 2)])
def test_planned_memory_counts_storages_that_later_tensors_use_again(calls: int, tensors: int) -> None:
    builder = relax.BlockBuilder()
    value = start = relax.Var("x", relax.TensorType((100,), "float32"))
    with builder.function("main", [start]):
        with builder.dataflow():
            for _ in range(calls):
                value = builder.emit_te(lambda a: tvm.te.compute(a.shape, lambda i: a[i] + 1.0), value)
            value = builder.emit_output(value)
        builder.emit_func_output(value)
    memory = PlannedMemory()
    with tvm.transform.PassContext(opt_level=3, instruments=[memory]):
        relax.pipeline.default_build_pipeline()(builder.get())
    assert memory.bytes == 400 * tensors


def test_a_library_with_a_constant_without_elements_can_be_loaded(tmp_path: Path) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    nothing = relax.const(np.zeros((2, 0), np.float32))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.concat([nothing, x], axis=1))
        builder.emit_func_output(relax.Tuple([y, nothing]))
    prepared = prepare(builder.get(), target="x86-64")
    path = build(prepared, Plan("x86-64", prepared.tvm_target_attrs, {}, {}), tmp_path / "model.so").path
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    joined, empty = machine["main"](tvm.runtime.tensor(given))
    np.testing.assert_array_equal(joined.numpy(), given)
    assert empty.numpy().shape == (2, 0)
