"""A library may differ from its operators run one by one by what rounding makes of last digits, and by no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpq_testing.lab import Lab
from tvm_mpq.errors import VerificationError
from tvm_mpq.execute.accuracy import relative_error
from tvm_mpq.execute.build_check import FLOAT_TOLERANCE, INTEGER_TOLERANCE, check_build
from tvm_mpq.execute.import_check import fp32_outputs
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.tuning.compile.kernel_store import KernelStore


def check(lab: Lab, precision: str, store: KernelStore, error: float) -> None:
    """As if the library's output were that far from the interpreter's, as a share of its size."""
    plan = lab.plan(precision)
    (wanted,) = lab.interpret(plan)
    check_build(
        lab.prepared, lab.interpreter, store, plan, WeightCodes(), lab.samples[0], wanted * np.float32(1 + error)
    )


@pytest.fixture
def store(tiny: Lab, tmp_path: Path) -> KernelStore:
    return KernelStore(tmp_path, tiny.prepared.tvm_target_attrs)


def test_floats_differ_by_the_order_of_sums(tiny: Lab, store: KernelStore) -> None:
    check(tiny, "fp32", store, 0.5 * FLOAT_TOLERANCE)
    with pytest.raises(VerificationError, match=r"0\.002 of its size.*allowed: 0\.001"):
        check(tiny, "fp32", store, 2 * FLOAT_TOLERANCE)


def test_integers_may_round_to_the_next(tiny: Lab, store: KernelStore) -> None:
    check(tiny, "w8a8", store, 0.5 * INTEGER_TOLERANCE)
    with pytest.raises(VerificationError, match="a compiler's fault"):
        check(tiny, "w8a8", store, 1.5 * INTEGER_TOLERANCE)


def test_where_rounding_costs_more_it_may_move_as_much(tiny: Lab, store: KernelStore) -> None:
    """An encoder with a few channels far larger than the others loses a fifth of its output at 8 bits."""
    (fp32,) = fp32_outputs(tiny.prepared, tiny.interpreter, tiny.samples[0])
    lost = relative_error(tiny.interpret(tiny.plan("w1a4"))[0], fp32)
    assert lost > 1.5 * INTEGER_TOLERANCE, "else this shows nothing"
    check(tiny, "w1a4", store, 0.9 * lost)
    with pytest.raises(VerificationError, match="a compiler's fault"):
        check(tiny, "w1a4", store, 1.1 * lost)
