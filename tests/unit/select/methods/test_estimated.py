"""The method ohq: the program on estimated losses, priced by the table."""

import pytest

from mpq_testing.walks import chain, misjudged
from tvm_mpq.errors import InfeasibleError
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.methods.estimated import Estimated
from tvm_mpq.select.methods.search import HEURISTIC
from tvm_mpq.select.problem import Limits
from tvm_mpq.select.searcher import IntegerProgram

PROBLEM = chain((4.0, 0.2), (1.0, 3.0), (6.0, 1.0))
LIMITS = Limits(latency_us=0.5 * cost(PROBLEM, uniform(PROBLEM, "w8a8")).latency_us)


def swapped(problem):
    """The operator that loses least is taken for the one that loses most."""
    weights = {"conv0": 3.0, "conv1": 0.2, "conv2": 1.0}
    own = {"conv0": 0.2, "conv1": 3.0, "conv2": 1.0}
    return {(o.name, c.label): c.loss / own[o.name] * weights[o.name] for o in problem.operators for c in o.choices}


def test_right_estimates_give_the_optimum_in_whatever_unit():
    best = IntegerProgram().best(PROBLEM, LIMITS, "loss")

    def scaled(problem):
        return {(o.name, c.label): 1000 * c.loss for o in problem.operators for c in o.choices}

    found = Estimated(scaled).best(PROBLEM, LIMITS, "loss")
    assert found.choices == best.choices and found.loss == best.loss and found.latency_us == best.latency_us
    assert (found.status, found.evaluations) == (HEURISTIC, 1) and found.bound <= found.loss
    assert Estimated().best(PROBLEM, LIMITS, "loss").status == "optimal"  # the table itself is the estimate


def test_wrong_estimates_cost_what_the_table_says():
    best = IntegerProgram().best(PROBLEM, LIMITS, "loss")
    found = Estimated(swapped).best(PROBLEM, LIMITS, "loss")
    assert found.loss == cost(PROBLEM, found.choices).loss > best.loss
    assert found.latency_us <= LIMITS.latency_us


def test_several_are_ranked_by_the_table():
    found = Estimated(misjudged).several(PROBLEM, LIMITS, 5, "loss", [o.name for o in PROBLEM.operators])
    assert len({str(s.choices) for s in found}) == 5
    assert [s.loss for s in found] == sorted(s.loss for s in found)


def test_a_plan_that_misses_the_tables_loss_is_none():
    limits = Limits(latency_us=LIMITS.latency_us, loss=2.0)
    with pytest.raises(InfeasibleError, match=r"ohq found a plan whose loss it estimates at .* \(allowed 2\)"):
        Estimated(lambda problem: {k: v / 9 for k, v in swapped(problem).items()}).best(PROBLEM, limits, "loss")


def test_estimates_are_asked_for_once():
    asked = []

    def losses(problem):
        asked.append(problem)
        return misjudged(problem)

    searcher = Estimated(losses)
    for share in (1.0, 0.9):
        searcher.best(PROBLEM, Limits(latency_us=share * LIMITS.latency_us), "loss")
    assert len(asked) == 1
