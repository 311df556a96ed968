"""Tables of a network: which of equal plans stands for uniform 8 bit once whole networks were measured."""

from __future__ import annotations

import dataclasses

import pytest

from tvm_mpq.costs.correction import Correction
from tvm_mpq.pipeline.tables import Tables
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor


def problem(float_us: float) -> Problem:
    """Two operators; the first one leaves integers in 5 us, or floats, which are converted then, in `float_us`."""
    free = {(32, 8): 0.1, (8, 32): 0.1}
    tensors = (
        Tensor("x", (32, 8), free, fixed=32),
        Tensor("y", (32, 8), free),
        Tensor("z", (32, 8), free, required=32),
    )
    first = (Choice("fp32", 32, {32: 9.0}), Choice("w8a8", 8, {32: float_us, 8: 5.0}, loss=0.1))
    second = (Choice("fp32", 32, {32: 9.0}), Choice("w8a8", 8, {32: 5.0, 8: 5.0}, loss=0.1))
    return Problem((Operator("a", ("x",), "y", first, (True,)), Operator("b", ("y",), "z", second, (True,))), tensors)


def tables(float_us: float) -> Tables:
    made = problem(float_us)
    return Tables(None, None, {}, made, made, Correction())  # type: ignore[arg-type]


@pytest.mark.parametrize(("corrected_us", "formats"), [(4.85, 8), (3.0, 32)])
def test_uniform_8_bit_is_the_network_that_was_measured_unless_another_gains(corrected_us: float, formats: int) -> None:
    """It need not be rounded, built and verified a second time for a gain within the noise."""
    before = tables(float_us=5.0).int8
    assert before.formats["y"] == 8
    made = problem(corrected_us)
    after = dataclasses.replace(tables(5.0), problem=made, runs=((before, 10.0),)).int8
    assert after.formats["y"] == formats
    assert after.latency_us == pytest.approx(10.2 if formats == 8 else 8.3, abs=0.11)
