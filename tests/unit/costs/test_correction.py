"""The correction: found again where it holds, applied to every kernel and boundary just as it was observed."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from tvm_mpq.costs.correction import TENSOR_SHARE, Correction, Observation, correct, fit, observe, stored_bytes
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.pipeline.tables import Tables, corrected
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor

SHAPES = {"x": (1, 8, 8, 3), "y": (1, 4, 4, 20), "z": (1, 320)}


TENSORS = {name: SimpleNamespace(shape=shape) for name, shape in SHAPES.items()}


def tensor_bytes(name: str, bits: int) -> int:
    return stored_bytes(SHAPES[name], bits)


def problem() -> Problem:
    """A convolution at two precisions, and a reshape that runs nothing."""
    conv = Operator(
        "conv",
        ("x",),
        "y",
        (Choice("w8a8", 8, {32: 11.0, 8: 10.0}, size_bytes=500), Choice("fp32", 32, {32: 40.0}, size_bytes=2000)),
        (True,),
    )
    flat = Operator("flat", ("y",), "z", (Choice("fp32", 32, {32: 0.0}), Choice("a8", 8, {8: 0.0})), (False,))
    tensors = (
        Tensor("x", (32, 8), {(32, 8): 2.0}, fixed=32),
        Tensor("y", (32, 8), {(32, 8): 1.0, (8, 32): 1.5}),
        Tensor("z", (32, 8), {(32, 8): 1.0, (8, 32): 0.5}, required=32),
    )
    return Problem((conv, flat), tensors, fixed_us=5.0, call_us=0.1)


def test_a_tensor_is_as_large_as_it_is_stored() -> None:
    assert stored_bytes((1, 8, 8, 3), 32) == 8 * 8 * 3 * 4
    assert stored_bytes((1, 8, 8, 3), 8) == 8 * 8 * 4
    assert stored_bytes((1, 4, 4, 20), 4) == 4 * 4 * 32
    assert stored_bytes((), 32) == 4


def test_bytes_are_counted_as_often_as_they_are_moved() -> None:
    solution = price_of("w8a8", {"x": 32, "y": 32, "z": 32})
    seen = observe(problem(), solution, 30.0, tensor_bytes)
    assert solution.conversions == (("x", 32, 8),)
    tensors = (768 + 256) + (256 + 4 * 4 * 20 * 4)  # of the conversion and of the convolution; the reshape runs nothing
    assert seen == Observation(solution.latency_us, 3, pytest.approx(500 + TENSOR_SHARE * tensors), 30.0)


def price_of(label: str, formats: dict[str, int]):
    found = price(problem(), {"conv": label, "flat": "fp32"}, formats)
    solution = cost(problem(), {"conv": label, "flat": "fp32"})
    return dataclasses.replace(
        solution, formats=formats, conversions=found.conversions, latency_us=found.latency_us, reads=found.reads
    )


@pytest.mark.parametrize("label", ["w8a8", "fp32"])
def test_a_corrected_price_is_the_observation_under_the_law(label: str) -> None:
    correction = Correction(0.9, 0.3, 1e-3)
    solution = price_of(label, {"x": 32, "y": 32, "z": 32})
    seen = observe(problem(), solution, 1.0, tensor_bytes)
    found = price(correct(problem(), correction, tensor_bytes), solution.choices, solution.formats)
    assert found.latency_us == pytest.approx(0.9 * seen.sum_us + 0.3 * seen.calls + 1e-3 * seen.far_bytes)


def test_a_run_of_what_is_offered_no_more_cannot_be_observed() -> None:
    whole = problem()
    conv, flat = whole.operators
    less = dataclasses.replace(whole, operators=(dataclasses.replace(conv, choices=conv.choices[1:]), flat))
    run = price_of("w8a8", {"x": 32, "y": 32, "z": 32})
    with pytest.raises(InvalidValueError, match="w8a8"):
        observe(less, run, 1.0, tensor_bytes)
    context: Any = SimpleNamespace(prepared=SimpleNamespace(graph=SimpleNamespace(tensors=TENSORS)))
    tables = Tables(None, None, {}, less, less, Correction())  # type: ignore[arg-type]
    other = price_of("fp32", {"x": 32, "y": 32, "z": 32})
    found = corrected(context, tables, [(run, 1.0), (other, 2 * other.latency_us)])
    assert found.runs == ((run, 1.0), (other, 2 * other.latency_us))
    assert price(found.problem, other.choices, other.formats).latency_us == pytest.approx(2 * other.latency_us)


def test_what_was_laid_in_is_found_again() -> None:
    rows = [Observation(s, c, b, s + 0.2 * c + 3e-5 * b) for s, c, b in ((900.0, 55, 40e6), (500.0, 60, 8e6))]
    found = fit(rows)
    assert (found.scale, found.call_us, found.byte_us) == pytest.approx((1.0, 0.2, 3e-5))


def test_terms_are_never_negative_and_fast_networks_scale_the_sum() -> None:
    assert fit([]) == Correction()
    falling = fit([Observation(100.0, 10, 1e6, 120.0), Observation(100.0, 10, 2e6, 110.0)])
    assert falling.scale == 1.0 and falling.call_us > 0 and falling.byte_us == 0
    fast = fit([Observation(100.0, 10, 1e6, 90.0), Observation(200.0, 10, 2e6, 180.0)])
    assert (fast.scale, fast.call_us, fast.byte_us) == (pytest.approx(0.9), 0.0, 0.0)
