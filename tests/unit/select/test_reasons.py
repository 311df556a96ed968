"""Why an operator is in floats or has 1-bit weights."""

from __future__ import annotations

import pytest

from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor
from tvm_mpq.select.reasons import next_best, reasons, swapped, unusual

TIMES = {"fp32": 6.0, "w8a8": 4.0, "w2a8": 2.0, "w1a8": 1.5}


def problem(middle: dict[str, tuple[float, float]]) -> Problem:
    """Three operators; only the one in the middle differs. label -> (microseconds, loss)."""
    usual = {label: (us, 0.0 if label == "fp32" else 0.1) for label, us in TIMES.items()}
    tensors = [Tensor("t0", (32, 8), {(32, 8): 1.0, (8, 32): 1.0}, fixed=32)]
    tensors += [Tensor(f"t{i}", (32, 8), {(32, 8): 1.0, (8, 32): 1.0}) for i in range(1, 4)]
    operators = []
    for i, choices in enumerate((usual, middle, usual)):
        rows = tuple(
            Choice(label, 32 if label == "fp32" else 8, {32: us} if label == "fp32" else {32: us, 8: us}, 1, loss)
            for label, (us, loss) in choices.items()
        )
        operators.append(Operator(f"o{i}", (f"t{i}",), f"t{i + 1}", rows, (True,)))
    return Problem(tuple(operators), tuple(tensors))


@pytest.mark.parametrize(("label", "asked"), [("fp32", True), ("bf16", True), ("w1a8", True), ("w2a8", False)])
def test_what_needs_a_reason(label: str, asked: bool) -> None:
    assert unusual(label) is asked


def test_integers_would_be_slower() -> None:
    """fp32 costs 3 us and a conversion behind it; 8 bit costs 9 us: the first operator emits floats at no cost."""
    tables = problem({"fp32": (3.0, 0.0), "w8a8": (9.0, 0.1)})
    plan = cost(tables, {"o0": "w8a8", "o1": "fp32", "o2": "w8a8"})
    found = swapped(tables, plan, "o1")
    assert found is not None and found.choices["o1"] == "w8a8"
    more = found.latency_us - plan.latency_us
    assert more == pytest.approx(9.0 - 3.0 - 1.0)
    text = f"fp32: 3.0 us; at w8a8 the network would take {more:.1f} us more, conversions included"
    assert reasons(tables, plan) == {"o1": text}


def test_integers_would_lose_more() -> None:
    tables = problem({"fp32": (6.0, 0.0), "w8a8": (4.0, 0.7)})
    plan = cost(tables, {"o0": "w8a8", "o1": "fp32", "o2": "w8a8"})
    assert (
        reasons(tables, plan)["o1"] == "fp32: at w8a8 the network would be 3.0 us faster, but lose 0.7 more (now 0.2)"
    )


def test_no_kernel_for_integers() -> None:
    tables = problem({"fp32": (6.0, 0.0)})
    plan = cost(tables, {"o0": "w8a8", "o1": "fp32", "o2": "w8a8"})
    assert reasons(tables, plan)["o1"].startswith("fp32: no kernel for integers")


def test_one_bit_is_compared_with_more_bits() -> None:
    tables = problem({label: (us, 0.1) for label, us in TIMES.items()})
    plan = cost(tables, {"o0": "w8a8", "o1": "w1a8", "o2": "w2a8"})
    assert next_best(tables, "o1", "w1a8") == "w2a8"
    assert reasons(tables, plan) == {
        "o1": "w1a8: 1.5 us; at w2a8 the network would take 0.5 us more, conversions included"
    }


def test_a_plan_in_floats_has_no_reasons_of_single_operators() -> None:
    tables = problem({"fp32": (6.0, 0.0), "w8a8": (4.0, 0.7)})
    assert reasons(tables, cost(tables, dict.fromkeys(("o0", "o1", "o2"), "fp32"))) == {}
