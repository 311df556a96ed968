"""From budget to plan, with an invented problem and an invented truth about accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence

import pytest

from mpq_testing.walks import draw, learnt
from tvm_mpq.errors import InfeasibleError
from tvm_mpq.pipeline.optimize import excess
from tvm_mpq.schema import Budget
from tvm_mpq.select.choose import TOP_K, choose, limits_of
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.table import METHODS, searcher_for
from tvm_mpq.select.paired import exact
from tvm_mpq.select.problem import Choice, Limits, Operator, Problem, Tensor
from tvm_mpq.select.quality import Quality
from tvm_mpq.select.searcher import IntegerProgram

COUNT = 4
PRECISIONS = {"fp32": (32, 10.0, 400, 0.0), "w8a8": (8, 4.0, 100, 1.0), "w4a8": (8, 3.0, 50, 5.0)}


@pytest.fixture
def problem() -> Problem:
    """A chain; each operator is faster, smaller and worse with fewer bits."""
    tensors = [
        Tensor(f"t{i}", (32, 8), {(32, 8): 0.5, (8, 32): 0.5}, fixed=32 if i == 0 else None) for i in range(COUNT)
    ]
    tensors.append(Tensor(f"t{COUNT}", (32,)))
    operators = [
        Operator(
            f"conv{i}",
            (f"t{i}",),
            f"t{i + 1}",
            tuple(
                Choice(label, bits, {32: us} if bits == 32 else {32: us, 8: us}, size, loss * (i + 1))
                for label, (bits, us, size, loss) in PRECISIONS.items()
            ),
            (True,),
        )
        for i in range(COUNT)
    ]
    return Problem(tuple(operators), tuple(tensors))


def narrow(solution: Solution) -> int:
    return sum(label == "w4a8" for label in solution.choices.values())


def evaluate(solution: Solution) -> Quality:
    """Half a point for each 4 bit operator; nothing for 8 bits."""
    return Quality(exact(0.5 * narrow(solution)), solution.loss)


def int8_of(problem: Problem) -> Solution:
    return cost(problem, uniform(problem, "w8a8"))


def pick(problem: Problem, budget: Budget, truth: Callable[[Solution], Quality] = evaluate) -> Solution:
    chosen, tried = choose(problem, budget, int8_of(problem), truth, searcher=IntegerProgram(10))
    assert chosen in tried
    return chosen.solution


def test_limits() -> None:
    limits = limits_of(Budget(latency_ratio=0.5, latency_ms=0.02, size_mb=0.001), 30.0)
    assert (limits.latency_us, limits.size_bytes, limits.loss) == (15.0, 1000.0, None)
    assert limits_of(Budget(latency_ratio=0.9, latency_ms=0.02), 30.0).latency_us == 20.0
    assert limits_of(Budget(), 30.0).latency_us is None


def test_least_loss_within_latency(problem: Problem) -> None:
    """15 us: two operators have to go to 4 bits, and it is the two that lose least."""
    solution = pick(problem, Budget(latency_ms=0.0145))
    assert solution.latency_us <= 14.5
    assert solution.choices == {"conv0": "w4a8", "conv1": "w4a8", "conv2": "w8a8", "conv3": "w8a8"}


def test_a_share_of_the_latency_budget(problem: Problem) -> None:
    """What a plan measured above its budget asks for: the same budget, kept with something to spare."""
    for share in (1.0, 0.9):
        chosen, _ = choose(
            problem,
            Budget(latency_ms=0.0155),
            int8_of(problem),
            evaluate,
            searcher=IntegerProgram(10),
            latency_share=share,
        )
        assert chosen.solution.latency_us <= share * 15.5
        assert narrow(chosen.solution) == {1.0: 1, 0.9: 3}[share]


def test_excess() -> None:
    measured = {"mixed_us": 90.0, "share_of_int8": 0.9}
    assert excess(Budget(latency_ratio=0.75), **measured) == pytest.approx(1.2)
    assert excess(Budget(latency_ms=0.06), **measured) == pytest.approx(1.5)
    assert excess(Budget(latency_ratio=0.75, latency_ms=0.06), **measured) == pytest.approx(1.5)
    assert excess(Budget(max_drop=1.0), **measured) <= 1


@pytest.mark.parametrize("budget", [Budget(latency_ms=0.0145), Budget(max_drop=2.0)])
def test_a_plan_whose_outputs_are_not_finite_is_no_answer(problem: Problem, budget: Budget) -> None:
    def truth(solution: Solution) -> Quality:
        return Quality(exact(math.inf), math.inf) if solution.choices["conv0"] == "w4a8" else evaluate(solution)

    chosen, tried = choose(problem, budget, int8_of(problem), truth, searcher=IntegerProgram(10))
    assert chosen in tried and chosen.solution.choices["conv0"] != "w4a8"
    assert all(math.isfinite(t.quality.loss) for t in tried)  # they are written into the report
    with pytest.raises(InfeasibleError, match=r"NaN or infinity|cannot be met"):
        choose(
            problem, budget, int8_of(problem), lambda _: Quality(exact(math.inf), math.inf), searcher=IntegerProgram(10)
        )


def test_size(problem: Problem) -> None:
    solution = pick(problem, Budget(size_mb=300e-6))
    assert solution.size_bytes <= 300 and narrow(solution) == 2


def test_end_to_end_accuracy_overrules_the_sum(problem: Problem) -> None:
    """Losses do not add up: the plan that is best on paper is worst in truth, so another of the best few is taken."""
    on_paper = pick(problem, Budget(latency_ms=0.0145))

    def truth(solution: Solution) -> Quality:
        return Quality(exact(0.0), 100.0 if solution.choices == on_paper.choices else solution.loss)

    chosen, tried = choose(problem, Budget(latency_ms=0.0145), int8_of(problem), truth, searcher=IntegerProgram(10))
    assert len(tried) == TOP_K and chosen.solution.choices != on_paper.choices
    assert chosen.quality.loss == min(t.quality.loss for t in tried)


@pytest.mark.parametrize("drop", [0.0, 0.5, 1.0, 1.7, 9.0])
def test_least_latency_within_drop(problem: Problem, drop: float) -> None:
    solution = pick(problem, Budget(max_drop=drop))
    assert evaluate(solution).drop.high <= drop
    assert narrow(solution) == min(COUNT, int(drop / 0.5))  # nothing left on the table


def test_one_point_when_nothing_is_asked(problem: Problem) -> None:
    assert pick(problem, Budget()).choices == pick(problem, Budget(max_drop=1.0)).choices


def test_both_limits(problem: Problem) -> None:
    solution = pick(problem, Budget(max_drop=1.0, size_mb=350e-6))
    assert evaluate(solution).drop.high <= 1 and solution.size_bytes <= 350


def test_unreachable_limits_are_explained(problem: Problem) -> None:
    for budget, word in ((Budget(latency_ms=0.001), "latency"), (Budget(size_mb=1e-6), "size")):
        with pytest.raises(InfeasibleError, match=word):
            pick(problem, budget)


def test_unreachable_drop(problem: Problem) -> None:
    with pytest.raises(InfeasibleError, match=r"max_drop 0.5 points cannot be met.*least found is at most 3\.00"):
        pick(problem, Budget(max_drop=0.5), lambda solution: Quality(exact(3.0), 1.0))


def test_no_plan_is_judged_twice(problem: Problem) -> None:
    seen: list[dict[str, str]] = []

    def truth(solution: Solution) -> Quality:
        seen.append(solution.choices)
        return evaluate(solution)

    pick(problem, Budget(max_drop=0.7), truth)
    assert all(a != b for a, b in itertools.combinations(seen, 2))


def test_8_bit_is_found_when_the_drop_allows_nothing_else_than_it(problem: Problem) -> None:
    """A plan that mixes fp32 in on paper's advice drops as much as 4 bits do: only uniform 8 bit and fp32 keep it."""

    def truth(solution: Solution) -> Quality:
        kinds = set(solution.choices.values())
        return Quality(exact(0.5 if kinds == {"w8a8"} else 0.0 if kinds == {"fp32"} else 3.0), solution.loss)

    assert set(pick(problem, Budget(max_drop=1.0), truth).choices.values()) == {"w8a8"}
    assert set(pick(problem, Budget(max_drop=0.2), truth).choices.values()) == {"fp32"}


def test_a_limit_that_8_bit_breaks_keeps_it_out(problem: Problem) -> None:
    def truth(solution: Solution) -> Quality:
        return Quality(exact(0.0 if "w4a8" not in solution.choices.values() else 3.0), solution.loss)

    size = int8_of(problem).size_bytes
    assert set(pick(problem, Budget(max_drop=1.0, size_mb=size / 1e6), truth).choices.values()) == {"w8a8"}
    with pytest.raises(InfeasibleError, match="max_drop 1 points cannot be met"):
        pick(problem, Budget(max_drop=1.0, size_mb=(size - 1) / 1e6), truth)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "ilp"])
def test_every_method_chooses(problem: Problem, method: str) -> None:
    """Also one that finds nothing below some cap on the loss: what keeps the drop is then taken from above."""
    searcher = searcher_for(method, Effort(evaluations=200), learn=draw, bits=learnt)
    chosen, _ = choose(problem, Budget(max_drop=1.0), int8_of(problem), evaluate, searcher=searcher)
    assert evaluate(chosen.solution).drop.estimate <= 1.0
    assert chosen.solution.latency_us <= int8_of(problem).latency_us
    chosen, tried = choose(problem, Budget(latency_ms=0.0155), int8_of(problem), evaluate, searcher=searcher)
    assert chosen.solution.latency_us <= 15.5 and len(tried) <= TOP_K


def test_a_searcher_that_finds_nothing_below_a_cap(problem: Problem) -> None:
    class Shy(IntegerProgram):
        def best(self, problem: Problem, limits: Limits, objective: str, then: Sequence[str] | None = None) -> Solution:
            if limits.loss is not None:
                raise InfeasibleError("found nothing")
            return super().best(problem, limits, objective, then)

    chosen, _ = choose(problem, Budget(max_drop=1.0), int8_of(problem), evaluate, searcher=Shy())
    assert chosen.name == "uniform w4a8, ends w8a8"  # the fastest uniform plan that keeps the drop


def test_another_searcher_is_asked(problem: Problem) -> None:
    """Whatever answers as `Searcher` says may choose: here one that knows two plans."""
    narrower = cost(problem, {**uniform(problem, "w8a8"), "conv2": "w4a8"})

    class Two:
        def best(self, problem: Problem, limits: Limits, objective: str, then: Sequence[str] | None = None) -> Solution:
            return narrower

        def several(
            self, problem: Problem, limits: Limits, count: int, objective: str, among: Collection[str]
        ) -> list[Solution]:
            return [int8_of(problem)]

    chosen, tried = choose(problem, Budget(size_mb=1.0), int8_of(problem), evaluate, searcher=Two())
    assert chosen.solution.choices == int8_of(problem).choices and len(tried) == 1
    chosen, tried = choose(problem, Budget(max_drop=0.5), int8_of(problem), evaluate, searcher=Two())
    assert chosen.solution == narrower and [t for t in tried if not t.name] == [chosen]
