"""Few bits on 8-bit kernels: the same integers, and no kernel compiled for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from mpq_testing.lab import Lab
from mpq_testing.onnx_models import depthwise_and_shortcut
from mpq_testing.slowly import slow_but
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.passes.lowering import KernelStep, Step
from tvm_mpq.schema import FP32, W8A8, Precision
from tvm_mpq.tuning.compile.kernel_store import KernelStore

pytestmark = pytest.mark.isa("avx2")


@pytest.fixture(scope="module", params=slow_but(["w4a8", "w3a8", "w2a4", "w1a4", "w1a1"], "w4a8", "w2a4", "w1a1"))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Odd channels, a depthwise convolution (8 bits only), a shortcut and a classifier."""
    folder = tmp_path_factory.mktemp("emulate")
    onnx.save(depthwise_and_shortcut(9, 37), str(folder / "net.onnx"))
    return Lab(folder / "net.onnx", folder / "kernels", offered=[FP32, W8A8, Precision.parse(request.param)])


def few_bits(lab: Lab) -> list[Step]:
    """Every operator at its fewest bits."""
    return lab.steps(lab.plan("fp32", {n.name: n.candidates[-1] for n in lab.graph.weighted()}))


def precisions(steps: list[Step]) -> dict[str, str]:
    return {s.node: str(s.kernel.request.precision) for s in steps if isinstance(s, KernelStep)}


def test_integers_are_equal_and_nothing_of_few_bits_is_compiled(lab: Lab, tmp_path: Path) -> None:
    steps = few_bits(lab)
    empty = KernelStore(tmp_path, lab.prepared.tvm_target_attrs)
    wide = emulated_on_int8(steps, empty)
    assert sum(text not in ("w8a8", "fp32") for text in precisions(steps).values()) >= 2
    assert set(precisions(wide).values()) <= {"w8a8", "fp32"}
    assert [type(s) for s in wide] == [type(s) for s in steps] and precisions(wide).keys() == precisions(steps).keys()
    expected, found = lab.values_of(steps), lab.values_of(wide)
    assert expected.keys() == found.keys()
    for value, array in expected.items():
        np.testing.assert_array_equal(found[value], array, str(value))


def test_a_kernel_that_is_there_is_not_replaced(lab: Lab) -> None:
    steps = few_bits(lab)
    lab.store.require([s.kernel for s in steps if isinstance(s, KernelStep)])
    assert emulated_on_int8(steps, lab.store) == steps
