"""A plan's digest: whole-network times that are kept are those of today's code."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tvm

from mpq_testing.networks import NormalForm
from tvm_mpq.calibrate import learn
from tvm_mpq.execute.network import plan_digest, realize
from tvm_mpq.execute.prepare import Prepared, prepare
from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.numerics.weight_codes import QuantizedWeight, WeightCodes
from tvm_mpq.passes.realize import KERNEL_ATTR
from tvm_mpq.schema import Plan
from tvm_mpq.tuning.compile.kernel_store import KernelSource, KernelStore


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """A convolution, which has a kernel, and a softmax, which is float code."""
    form = NormalForm((1, 3, 6, 6))
    return prepare(form.build(lambda form, x: form.softmax(form.conv("stem", form.nhwc(x), 16))))


@pytest.fixture
def store(prepared: Prepared, tmp_path: Path) -> KernelStore:
    return KernelStore(tmp_path, prepared.tvm_target_attrs)


def digest(prepared: Prepared, store: KernelStore, plan: Plan | None = None) -> str:
    plan = learn.bare_plan(prepared, {}) if plan is None else plan
    return plan_digest(prepared, plan, realize(prepared, plan), store)


def test_the_same_code_is_the_same_plan(prepared: Prepared, store: KernelStore) -> None:
    plan = learn.bare_plan(prepared, {})
    plan = dataclasses.replace(plan, info={"free": 1}, kernels={"unused": {"family": "f", "knobs": {}}})
    assert digest(prepared, store, plan) == digest(prepared, store)


def test_a_kernel_that_changed_is_another(
    prepared: Prepared, store: KernelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, source = digest(prepared, store), store.source

    def changed(kernel: Kernel) -> KernelSource:
        one = kernel.request.workload.kind == "conv2d"
        return dataclasses.replace(source(kernel), version="new") if one else source(kernel)

    monkeypatch.setattr(store, "source", changed)
    assert digest(prepared, store) != before


def test_float_code_that_changed_is_another(prepared: Prepared, store: KernelStore) -> None:
    plan = learn.bare_plan(prepared, {})
    mod = realize(prepared, plan)
    floats = [v for v, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc) and KERNEL_ATTR not in f.attrs]
    assert floats
    functions = {v: f.with_attr("changed", 1) if v in floats else f for v, f in mod.functions_items()}
    assert plan_digest(prepared, plan, tvm.IRModule(functions), store) != plan_digest(prepared, plan, mod, store)


def test_another_tvm_is_another(prepared: Prepared, store: KernelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(prepared, store)
    monkeypatch.setattr(tvm, "__version__", "0.0.0")
    assert digest(prepared, store) != before


def test_other_weight_codes_are_another(prepared: Prepared, store: KernelStore) -> None:
    plan = learn.bare_plan(prepared, {})
    (node,) = prepared.graph.weighted()
    assert node.weight is not None
    weight = QuantizedWeight(np.ones(node.weight.shape, np.int8), np.ones(len(node.weight), np.float32), 8)
    mod = realize(prepared, plan)
    plain, empty, given = (
        plan_digest(prepared, plan, mod, store, codes)
        for codes in (None, WeightCodes(), WeightCodes({node.name: weight}))
    )
    assert plain == empty != given
