"""The fastest plan within a drop: invented problems, and inventions of what plans really lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.paired import Interval, exact
from tvm_mpq.select.problem import Choice, Limits, Operator, Problem, Tensor
from tvm_mpq.select.quality import Quality, Tried
from tvm_mpq.select.searcher import IntegerProgram
from tvm_mpq.select.uniforms import uniform_plans
from tvm_mpq.select.within_drop import CAPS, DOUBTLESS, fastest_within

FORMATS = {"fp32": 32, "fp16": 32} | {f"w{bits}a8": 8 for bits in range(1, 9)}


def chain(*operators: Mapping[str, tuple[float, float]], convert_us: float = 0.1) -> Problem:
    """label -> (microseconds, loss) for each operator of a chain."""
    tensors = [Tensor("t0", (32, 8), {(32, 8): convert_us, (8, 32): convert_us}, fixed=32)]
    tensors += [Tensor(f"t{i + 1}", (32, 8), {(32, 8): convert_us, (8, 32): convert_us}) for i in range(len(operators))]
    rows = []
    for i, choices in enumerate(operators):
        found = tuple(
            Choice(label, FORMATS[label], {32: us} if FORMATS[label] == 32 else {32: us, 8: us}, 1, loss)
            for label, (us, loss) in choices.items()
        )
        rows.append(Operator(f"o{i}", (f"t{i}",), f"t{i + 1}", found, (True,)))
    return Problem(tuple(rows), tuple(tensors))


SAME = {"fp32": (9.0, 0.0), "w8a8": (4.0, 0.01), "w6a8": (3.0, 0.05), "w4a8": (2.0, 0.4)}


def as_tables(factor: float = 1.0) -> Callable[[Solution], Quality]:
    """The drop is what tables say."""
    return lambda solution: Quality(exact(factor * solution.loss), solution.loss)


def find(
    problem: Problem, max_drop: float, truth: Callable[[Solution], Quality], limits: Limits | None = None
) -> Tried:
    chosen, tried = fastest_within(problem, limits or Limits(), max_drop, truth, IntegerProgram(10))
    assert chosen in tried and chosen.quality.keeps(max_drop)
    assert len({repr((t.solution.choices, t.solution.formats)) for t in tried}) == len(tried), "nothing is judged twice"
    return chosen


def test_the_mix_between_two_uniform_plans_is_found() -> None:
    """Six operators; 0.8 allows one 4 bit operator among 6 bits, and 8 bit nowhere."""
    chosen = find(chain(*[SAME] * 6), 0.7, as_tables())
    assert sorted(chosen.solution.choices.values()) == ["w4a8", *["w6a8"] * 5]


def test_a_uniform_plan_that_is_better_than_its_tables_wins() -> None:
    """Solver and tables know nothing of it: 6 bits and more lose nothing, 4 bits or floats among them much."""

    def truth(solution: Solution) -> Quality:
        kinds = set(solution.choices.values())
        return Quality(exact(0.0 if kinds <= {"w6a8", "w8a8"} or kinds == {"fp32"} else 5.0), solution.loss)

    chosen = find(chain(*[SAME] * 4), 0.5, truth)
    assert chosen.name == "uniform w6a8" and set(chosen.solution.choices.values()) == {"w6a8"}


def test_never_slower_than_a_uniform_plan_that_keeps_the_drop() -> None:
    problem = chain(*[SAME] * 3, {"fp32": (5.0, 0.0), "w8a8": (6.0, 0.02)})
    for drop in (0.01, 0.05, 0.1, 0.3, 0.9, 2.0):
        chosen, tried = fastest_within(problem, Limits(), drop, as_tables(), IntegerProgram(10))
        keeping = [t for t in tried if t.name and t.quality.keeps(drop)]
        assert keeping and all(chosen.solution.latency_us <= t.solution.latency_us for t in keeping)


def test_few_uniform_plans_are_run() -> None:
    """Of six, those that faster ones or ones of more bits settle are not; the fastest that keeps the drop is."""
    problem = chain(*[SAME] * 4)
    assert len(uniform_plans(problem, but_ends=True)) == 6
    for drop, wanted in (
        (0.3, "uniform w6a8"),
        (0.05, "uniform w8a8"),
        (9.0, "uniform w4a8"),
    ):
        _, tried = fastest_within(problem, Limits(), drop, as_tables(), IntegerProgram(10))
        keeping = [t for t in tried if t.name and t.quality.keeps(drop)]
        assert min(keeping, key=lambda t: t.solution.latency_us).name == wanted
        assert len([t for t in tried if t.name]) <= 4


def test_uniform_plans_are_parted_by_what_they_lose() -> None:
    """Each settles half of what is left: no plan that loses a hundred times too much is looked at."""
    ladder = {f"w{bits}a8": (bits / 2.0, 4.0**-bits) for bits in range(1, 9)} | {"fp32": (9.0, 0.0)}
    problem = chain(*[ladder] * 4)
    plans = uniform_plans(problem, but_ends=True)
    assert len(plans) > 12
    for bits in range(2, 8):
        allowed = 1.5 * 4 * 4.0**-bits
        _, tried = fastest_within(problem, Limits(), allowed, as_tables(), IntegerProgram(10))
        named = [t for t in tried if t.name]
        assert f"uniform w{bits}a8" in {t.name for t in named} and len(named) <= math.ceil(math.log2(len(plans))) + 1


def test_a_uniform_plan_that_is_hardly_faster_than_one_that_is_kept_is_not_run() -> None:
    """With its ends at 8 bits the other one loses less, and takes a thousandth more."""
    flat = {"fp32": (9.0, 0.0), "w8a8": (3.005, 0.01), "w6a8": (3.0, 0.05)}
    _, tried = fastest_within(chain(*[flat] * 4), Limits(), 0.5, as_tables(), IntegerProgram(10))
    assert len(tried) == 1


def test_caps_lie_below_what_is_known_to_fail() -> None:
    """4 bits lose a thousand times what 6 bits do; between the two 5 bits failed already."""
    steep = {"fp32": (9.0, 0.0), "w8a8": (4.0, 0.001), "w6a8": (3.0, 0.01), "w5a8": (2.5, 0.06), "w4a8": (1.0, 10.0)}
    _, tried = fastest_within(chain(*[steep] * 12), Limits(), 0.3, as_tables(), IntegerProgram(10))
    failed = next(t for t in tried if t.name == "uniform w5a8, ends w8a8")
    searched = [t for t in tried if not t.name]
    assert searched and all(t.solution.loss <= failed.solution.loss for t in searched)


def test_a_uniform_plan_that_breaks_a_limit_settles_nothing() -> None:
    size = Limits(size_bytes=3.0)
    with pytest.raises(InfeasibleError, match="size"):
        find(chain(*[SAME] * 4), 0.5, as_tables(), size)


def test_few_plans_are_run() -> None:
    _, tried = fastest_within(chain(*[SAME] * 8), Limits(), 0.7, as_tables(), IntegerProgram(10))
    assert len([t for t in tried if not t.name]) <= CAPS + 3


def test_hopeless_plans_are_not_run() -> None:
    """By the least that drops grow with the loss, 4 bits lose ten times what 6 bits do, which lose too much already."""
    steep = {"fp32": (9.0, 0.0), "w8a8": (4.0, 0.01), "w6a8": (3.0, 0.2), "w4a8": (2.0, 20.0)}
    _, tried = fastest_within(chain(*[steep] * 4), Limits(), 0.25, as_tables(), IntegerProgram(10))
    assert all("w4a8" not in t.solution.choices.values() for t in tried)
    assert any("w6a8" in t.solution.choices.values() for t in tried)


def test_bounds_that_stand_on_few_images_call_no_plan_hopeless() -> None:
    """8 bits may lose nothing or much; so nothing is known of 4 bits, which lose nothing either."""
    steep = {"fp32": (9.0, 0.0), "w8a8": (4.0, 0.01), "w6a8": (3.0, 0.2), "w4a8": (2.0, 20.0)}
    chosen = find(chain(*[steep] * 4), 0.5, lambda s: Quality(Interval(0.2, 0.0, 0.5, 100), s.loss))
    assert set(chosen.solution.choices.values()) == {"w4a8"}


def test_a_little_that_is_lost_by_chance_calls_no_plan_hopeless() -> None:
    """8 bits lose 0.01 whatever their loss says, which is a thousandth of that of 4 bits."""
    flat = {"fp32": (9.0, 0.0), "w8a8": (4.0, 1e-6), "w6a8": (3.0, 0.2), "w4a8": (2.0, 1.0)}
    chosen = find(chain(*[flat] * 4), 0.5, lambda s: Quality(Interval(0.02, 0.01, 0.1, 100), s.loss))
    assert set(chosen.solution.choices.values()) == {"w4a8"}


def test_a_plan_of_several_times_the_loss_of_one_that_fails_is_not_run() -> None:
    """Whatever few images say of it: here they say that it loses nothing."""
    steep = {"fp32": (9.0, 0.0), "w8a8": (4.0, 0.01), "w6a8": (3.0, 0.05), "w4a8": (2.0, 0.21)}

    def truth(solution: Solution) -> Quality:
        middling = 0.15 < solution.loss < 0.75
        return Quality(Interval(0.2, 0.1, 0.6 if middling else 0.4, 100), solution.loss)

    _, tried = fastest_within(chain(*[steep] * 4), Limits(), 0.5, truth, IntegerProgram(10))
    failing = min(t.solution.loss for t in tried if not t.quality.keeps(0.5))
    assert all(t.solution.loss < DOUBTLESS * failing for t in tried)


def test_a_plan_whose_outputs_are_not_finite_says_nothing_of_others() -> None:
    """Halves overflow here; integers do not."""
    halves = {**SAME, "fp16": (8.0, 1e-6)}

    def truth(solution: Solution) -> Quality:
        return Quality(exact(math.inf if "fp16" in solution.choices.values() else solution.loss), solution.loss)

    chosen, tried = fastest_within(chain(*[halves] * 4), Limits(), 0.05, truth, IntegerProgram(10))
    assert any(t.quality.drop.broken for t in tried) and chosen.name == "uniform w8a8"


def test_where_no_larger_loss_is_kept_the_uniform_plans_own_is_enough() -> None:
    """The solver spends it better: on operators that lose little at 4 bits, so that others can have 8."""
    problem = chain(*[{**SAME, "w4a8": (2.0, 0.06 + 0.001 * i)} for i in range(10)], SAME, SAME)
    most = cost(problem, uniform(problem, "w6a8"))
    chosen = find(problem, 0.5, lambda s: Quality(exact(0.4 if s.loss <= most.loss + 1e-9 else 0.9), s.loss))
    assert chosen.solution.loss <= most.loss and chosen.solution.latency_us < most.latency_us


def test_where_no_uniform_plan_is_within_limits_the_least_loss_is_run() -> None:
    problem = chain(*[{**SAME, "w6a8": (3.0 - 0.01 * i, 0.05 + 0.001 * i)} for i in range(10)])
    limits = Limits(latency_us=37.2)
    least = IntegerProgram(10).best(problem, limits, "loss")
    truth = as_tables(0.5 / least.loss)
    assert find(problem, 0.5 + 1e-9, truth, limits).solution.choices == least.choices


def test_a_searcher_that_finds_nothing_costs_no_uniform_plan() -> None:
    class Blind(IntegerProgram):
        def best(self, *_: object, **__: object) -> Solution:
            raise InfeasibleError("nothing found")

    chosen, _ = fastest_within(chain(*[SAME] * 4), Limits(), 0.5, as_tables(), Blind(10))
    assert chosen.name == "uniform w6a8"
    with pytest.raises(InfeasibleError, match="nothing found"):
        fastest_within(chain(*[SAME] * 4), Limits(latency_us=13.0), 0.1, as_tables(), Blind(10))


def test_next_to_nothing_is_not_looked_for() -> None:
    """4 bits fail, and gain a sixtieth over 6 bits: nothing between the two is tried."""
    flat = {"fp32": (9.0, 0.0), "w8a8": (4.0, 0.01), "w6a8": (3.0, 0.05), "w4a8": (2.95, 0.1)}
    _, tried = fastest_within(chain(*[flat] * 12), Limits(), 0.95, as_tables(), IntegerProgram(10))
    assert {t.name for t in tried} >= {"uniform w6a8", "uniform w4a8"} and all(t.name for t in tried)


def test_drops_that_hardly_grow_are_parted_in_the_middle() -> None:
    """In proportion to drops like these, four steps down would end where none is kept yet."""
    steep = {"fp32": (9.0, 0.0), "w8a8": (4.0, 0.01), "w6a8": (3.0, 0.04), "w4a8": (2.0, 0.16)}
    problem = chain(*[steep] * 24)
    chosen, tried = fastest_within(
        problem,
        Limits(),
        0.5,
        lambda s: Quality(exact(0.49 if s.loss <= 1.201 else 0.52), s.loss),
        IntegerProgram(10),
    )
    assert sorted(chosen.solution.choices.values()) == [*["w4a8"] * 2, *["w6a8"] * 22]
    assert len([t for t in tried if not t.name]) <= 1 + CAPS, "the fastest of all, and one a cap"


def test_no_more_caps_are_tried_than_may_be() -> None:
    steep = {"fp32": (9.0, 0.0), "w8a8": (4.0, 0.01), "w4a8": (1.0, 0.64)}
    _, tried = fastest_within(
        chain(*[steep] * 24),
        Limits(),
        0.5,
        lambda s: Quality(exact(0.49 if s.loss <= 1.51 else 0.52), s.loss),
        IntegerProgram(10),
    )
    assert len([t for t in tried if not t.name]) == CAPS


def test_the_upper_bound_decides() -> None:
    """Estimates within the drop do not do: a plan is kept when even its upper bound is."""

    def truth(solution: Solution) -> Quality:
        return Quality(Interval(solution.loss, 0.0, 3 * solution.loss, 100), solution.loss)

    chosen = find(chain(*[SAME] * 4), 0.5, truth)
    assert 3 * chosen.solution.loss <= 0.5 < 3 * 4 * 0.05


def test_fp32_is_the_answer_when_nothing_else_keeps_the_drop() -> None:
    def truth(solution: Solution) -> Quality:
        return Quality(exact(0.0 if set(solution.choices.values()) == {"fp32"} else 2.0), solution.loss)

    assert find(chain(*[SAME] * 3), 0.5, truth).name == "uniform fp32"


def test_when_limits_forbid_fp32_the_nearest_uniform_plan_is_named() -> None:
    def truth(solution: Solution) -> Quality:
        return Quality(Interval(10 * solution.loss, 5 * solution.loss, 20 * solution.loss, 50), solution.loss)

    with pytest.raises(InfeasibleError) as caught:
        find(chain(*[SAME] * 3), 0.2, truth, Limits(latency_us=13.0))
    text = str(caught.value)
    assert "max_drop 0.2 points cannot be met within the other limits with 90% confidence" in text
    assert "uniform w8a8 comes nearest: 0.30 points, at most 0.60, 0.40 too many" in text and "\n" not in text


def test_a_float_operator_that_gains_less_than_the_noise_becomes_an_integer() -> None:
    """0.12 us of 28 are no reason for floats in the middle of a network; 2 us are."""
    for fp32_us, wanted in ((4.18, "w8a8"), (2.0, "fp32")):
        middle = {"fp32": (fp32_us, 0.0), "w8a8": (4.4, 0.01)}
        problem = chain(*[SAME] * 3, middle, *[SAME] * 3, convert_us=0.1)
        chosen = find(problem, 0.115, as_tables())
        assert chosen.solution.choices["o3"] == wanted
        others = {label for name, label in chosen.solution.choices.items() if name != "o3"}
        assert others <= {"w8a8", "w6a8"}


def test_a_float_operator_stays_where_integers_would_lose_too_much() -> None:
    problem = chain(*[SAME] * 2, {"fp32": (4.18, 0.0), "w8a8": (4.4, 9.0)}, *[SAME] * 2)
    assert find(problem, 0.05, as_tables()).solution.choices["o2"] == "fp32"
