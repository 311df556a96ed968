"""Methods side by side: one problem, one judge, the solver's bound."""

import itertools
import re

import pytest

from mpq_testing.walks import draw, learnt, misjudged
from tvm_mpq.select.contest import PROVEN_EMPTY, contest
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.table import METHODS, searcher_for


@pytest.fixture(scope="module")
def entries(network):
    problem = network(6)
    int8_us = cost(problem, uniform(problem, "w8a8")).latency_us
    clock = itertools.count().__next__
    said = []

    def searcher(name):
        learning = {"learn": draw, "bits": learnt, "losses": misjudged}
        return searcher_for(name, Effort(evaluations=800), free_bits=name == "amed", **learning)

    return contest(problem, int8_us, (0.8, 0.6, 0.01), METHODS, searcher, clock, said.append), int8_us, said


def test_every_method_under_every_budget(entries):
    found, int8_us, said = entries
    assert [(e.share, e.method) for e in found] == list(itertools.product((0.8, 0.6, 0.01), METHODS))
    assert all(e.solution.latency_us <= e.share * int8_us * (1 + 1e-9) for e in found if e.solution)
    looked = [e for e in found if e.share > 0.01 or e.method == "ilp"]
    assert all(e.seconds == 1 for e in looked) and len(said) == len(looked)


def test_nothing_is_better_than_the_bound(entries):
    found, _, _ = entries
    for share, group in itertools.groupby(found, key=lambda e: e.share):
        rows = {e.method: e for e in group}
        if share == 0.01:
            assert all(e.solution is None and e.bound is None and e.gap is None and e.reason for e in rows.values())
            others = [e for e in rows.values() if e.method != "ilp"]
            assert all(e.seconds == 0 and PROVEN_EMPTY in e.reason and rows["ilp"].reason in e.reason for e in others)
            continue
        exact = rows["ilp"].solution
        assert rows["ilp"].gap == 0
        for entry in rows.values():
            assert entry.bound == exact.bound <= exact.loss <= entry.solution.loss
            assert entry.gap == pytest.approx(1 - exact.loss / entry.solution.loss, abs=1e-9)
        assert rows["uniform"].gap > 0.5  # what one precision everywhere gives away here


def test_a_method_that_samples_leaves_its_trace(entries):
    found, _, _ = entries
    assert {e.method for e in found if e.trace and e.share == 0.8} == {"amed", "haq"}


def test_the_bound_is_there_without_the_solver_in_the_table(network):
    problem = network(3)
    int8_us = cost(problem, uniform(problem, "w8a8")).latency_us
    (entry,) = contest(
        problem, int8_us, (0.8,), ("greedy",), lambda name: searcher_for(name, Effort()), lambda: 0.0, lambda text: None
    )
    assert entry.method == "greedy" and entry.bound is not None


def test_a_budget_out_of_reach_is_answered_in_its_own_unit(network):
    """A share was asked for; the least share said is one that there is a plan for, and the next below it is not."""
    problem = network(3)
    int8_us = cost(problem, uniform(problem, "w8a8")).latency_us

    def ilp(share: float):
        (entry,) = contest(
            problem,
            int8_us,
            (share,),
            ("ilp",),
            lambda name: searcher_for(name, Effort()),
            lambda: 0.0,
            lambda text: None,
        )
        return entry

    least = float(re.search(r"^the least feasible latency is ([0-9.]+) of 8 bit; raise", ilp(0.01).reason)[1])
    assert ilp(least).solution is not None and ilp(least - 0.001).solution is None
