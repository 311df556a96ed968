"""The integer program against brute force: the same optimum, bounds that hold, refusals that say why.

In one file: brute force, by which all answers are judged, stands beside them.
"""

import dataclasses
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tvm_mpq.select.ilp as ilp
from tvm_mpq.errors import InfeasibleError, InvalidValueError
from tvm_mpq.select.ilp import THEN, Limits, Solution, k_best, solve
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import LIMIT_FIELDS, Choice, Operator, Problem, Tensor
from tvm_mpq.select.solver import Run

SEEDS = st.integers(0, 10**6)
TABLES = settings(max_examples=30, deadline=None)


def _value(solution, quantity):
    return getattr(solution, LIMIT_FIELDS[quantity] if quantity != "latency" else "latency_us")


def _within(assignments, limits):
    return [a for a in assignments if all(a[2][q] <= v for q, v in limits.active())]


def _random_limits(rng, assignments):
    """Limits at attained values, so that being exactly at a limit is tried too, and some that are out of reach."""
    limits = Limits()
    for quantity in rng.sample(sorted(LIMIT_FIELDS), rng.randint(0, 2)):
        limits = limits.tightened(quantity, rng.choice(assignments)[2][quantity] - rng.choice([0, 0, 0, 1]))
    return limits


@TABLES
@given(seed=SEEDS, objective=st.sampled_from(sorted(THEN)))
def test_equals_trying_everything(small_problem, brute, seed, objective):
    problem = small_problem(seed)
    every = brute(problem)
    limits = _random_limits(random.Random(seed), every) if every else Limits()
    feasible = _within(every, limits)
    if not feasible:
        with pytest.raises(InfeasibleError):
            solve(problem, limits, objective)
        return
    found = solve(problem, limits, objective)
    order = (objective, *THEN[objective])
    best = min(tuple(a[2][q] for q in order) for a in feasible)
    assert [_value(found, q) for q in order] == pytest.approx(list(best), abs=1e-9)
    assert (found.status, found.gap) == ("optimal", pytest.approx(0, abs=1e-9))
    assert found.bound <= found.objective == _value(found, objective)
    assert any((found.choices, found.formats) == a[:2] and a[2]["latency"] == found.latency_us for a in feasible)


@TABLES
@given(seed=SEEDS)
def test_no_tensor_lacks_bits_that_cost_nothing(small_problem, brute, seed):
    problem = small_problem(seed)
    every = brute(problem)
    if not every:
        return
    found = solve(problem)
    same = [a[1] for a in every if a[0] == found.choices and a[2]["latency"] <= found.latency_us]
    lacking = [sum(8 - bits for bits in formats.values() if bits != 32) for formats in same]
    assert sum(8 - bits for bits in found.formats.values() if bits != 32) == min(lacking)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, objective=st.sampled_from(["latency", "loss"]))
def test_cuts_enumerate_all_choices_best_first(small_problem, brute, seed, objective):
    problem = small_problem(seed, sizes=(2, 3))
    least = {}
    for labels, _, values in brute(problem):
        key = tuple(sorted(labels.items()))
        least[key] = min(least.get(key, 1e9), values[objective])
    if not least:
        return
    found = k_best(problem, count=len(least) + 1, objective=objective)
    assert [_value(s, objective) for s in found] == pytest.approx(sorted(least.values()), abs=1e-9)
    assert len({tuple(sorted(s.choices.items())) for s in found}) == len(least)


def _chain(losses=(1.0, 2.0), latencies=(10.0, 5.0)):
    """Two convolutions, each accurate and slow at w8a8 or lossy and fast at w4a4."""
    tensors = (
        Tensor("x", (32, 8, 4), {(32, 8): 1.0, (32, 4): 1.0}, fixed=32),
        Tensor("y", (32, 8, 4), {(8, 4): 1.0, (4, 8): 1.0}),
        Tensor("z", (32,), required=32),
    )

    def conv(name, source, output):
        choices = (
            Choice("w8a8", 8, {8: latencies[0], 32: latencies[0]}, 100, losses[0]),
            Choice("w4a4", 4, {8: latencies[1], 32: latencies[1]}, 50, losses[1]),
        )
        return Operator(name, (source,), output, choices, (True,))

    return Problem((conv("a", "x", "y"), conv("b", "y", "z")), tensors)


def test_a_cut_on_some_operators_leaves_the_others_free():
    first, second = k_best(_chain(), count=2, among={"a"})
    assert (first.choices["a"], second.choices["a"]) == ("w4a4", "w8a8")
    assert second.latency_us == 1 + 10 + 5
    assert len(k_best(_chain(), count=9, among={"a"})) == 2


def test_forbidding_everything_says_so():
    problem = _chain()
    every = k_best(problem, count=10)
    assert len(every) == 4
    with pytest.raises(InfeasibleError, match=r"^no further solution: all that exist are among the 4 forbidden$"):
        solve(problem, forbid=every)


def test_conversion_shared_by_consumers_is_paid_once():
    tensors = (
        Tensor("x", (32, 8), {(32, 8): 7.0}, fixed=32),
        Tensor("y", (8,)),
        Tensor("z", (8,)),
        Tensor("s", (32,), required=32),
    )
    conv = (Choice("w8a8", 8, {8: 1.0}),)
    operators = (
        Operator("a", ("x",), "y", conv, (True,)),
        Operator("b", ("x",), "z", conv, (True,)),
        Operator("add", ("y", "x"), "s", (Choice("a8", 8, {32: 1.0}),), (False, False)),
    )
    found = solve(Problem(operators, tensors, fixed_us=100.0, call_us=0.5))
    assert found.conversions == (("x", 32, 8),)
    assert found.latency_us == 100 + 3 * 1.5 + 7.5
    assert found.reads == {"a": (8,), "b": (8,), "add": (8, 8)}


def test_residual_of_another_format_needs_no_conversion_but_the_data_input_does():
    tensors = (
        Tensor("x", (32, 8, 4), {(32, 4): 1.0}, fixed=32),
        Tensor("y", (4,), {}),
        Tensor("z", (8, 32), {(8, 32): 1.0}, required=32),
    )
    first = Operator("a", ("x",), "y", (Choice("w4a4", 4, {8: 1.0}),), (True,))

    def second(exact):
        return Operator("b", ("y", "y"), "z", (Choice("w4a8", 4, {8: 1.0}),), exact)

    def third(exact):
        return dataclasses.replace(second(exact), choices=(Choice("w8a8", 8, {8: 1.0}),))

    assert solve(Problem((first, second((True, False))), tensors)).reads["b"] == (4, 4)
    assert solve(Problem((first, third((False, False))), tensors)).reads["b"] == (4, 4)
    with pytest.raises(InfeasibleError, match="even without a budget"):
        solve(Problem((first, third((True, False))), tensors))


def test_budget_out_of_reach_alone_names_the_least_value():
    with pytest.raises(InfeasibleError) as e:
        solve(_chain(), Limits(latency_us=10.5), "loss")
    assert str(e.value) == (
        "latency <= 10.5 us is out of reach even without other budgets: the least feasible latency is 11 us; "
        "raise the budget to at least that"
    )


def test_what_forbidden_solutions_leave_out_of_reach_is_told_apart():
    with pytest.raises(
        InfeasibleError, match=r"^besides the 1 forbidden: latency <= 11 us is out of reach .* is 16 us"
    ):
        solve(_chain(), Limits(latency_us=11), forbid=[{"a": "w4a4", "b": "w4a4"}])


def test_budgets_in_conflict_name_both_ways_out():
    with pytest.raises(InfeasibleError) as e:
        solve(_chain(), Limits(latency_us=15, loss=3, size_bytes=1000))
    assert str(e.value) == (
        "no plan keeps loss <= 3 and latency <= 15 us together: with latency <= 15 us, the least feasible loss is 4; "
        "with loss <= 3, the least feasible latency is 16 us; raise one of them"
    )


def test_tables_that_cannot_be_joined_say_so():
    problem = _chain()
    stuck = dataclasses.replace(problem, tensors=(Tensor("x", (32,), fixed=32), *problem.tensors[1:]))
    with pytest.raises(InfeasibleError, match="even without a budget; give the operators more choices"):
        solve(stuck, Limits(latency_us=1e6))


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    scales=st.tuples(*[st.sampled_from([1e-9, 1e-4, 1.0, 1e5, 1e9])] * 2),
    objective=st.sampled_from(["latency", "loss"]),
)
@example(seed=1893, scales=(1e-9, 1e-9), objective="loss")  # a loss of 0 whose bound is 0 but for rounding
def test_scale_of_the_tables_does_not_matter(small_problem, brute, seed, scales, objective):
    problem = small_problem(seed)
    every = brute(problem)
    if not every:
        return
    us, loss = scales
    scaled = Problem(
        tuple(
            dataclasses.replace(
                o,
                choices=tuple(
                    dataclasses.replace(c, latency_us={k: v * us for k, v in c.latency_us.items()}, loss=c.loss * loss)
                    for c in o.choices
                ),
            )
            for o in problem.operators
        ),
        tuple(dataclasses.replace(t, convert_us={k: v * us for k, v in t.convert_us.items()}) for t in problem.tensors),
        problem.fixed_us * us,
        problem.call_us * us,
    )
    other = "loss" if objective == "latency" else "latency"
    limit = random.Random(seed).choice(every)[2][other]
    best = min(a[2][objective] for a in every if a[2][other] <= limit)
    unit = {"latency": us, "loss": loss}
    found = solve(scaled, Limits().tightened(other, limit * unit[other]), objective)
    assert found.objective == pytest.approx(best * unit[objective], rel=1e-9, abs=1e-9 * unit[objective])
    assert found.gap == 0
    assert found.bound == pytest.approx(found.objective, rel=1e-9, abs=1e-9 * unit[objective])


def test_absurd_choices_do_not_blur_the_sane_ones():
    """Beside a loss of 1e9, differences of 1e-9 in the others still decide."""
    rng = random.Random(3)
    sane = [[rng.uniform(1, 9) * 1e-9 for _ in range(3)] for _ in range(6)]
    tensors = [Tensor("x", (8,), fixed=8)]
    operators = []
    for i, losses in enumerate(sane):
        choices = [Choice(f"w{w}a8", 8, {8: 1.0 + w}, 0, loss) for w, loss in zip((8, 6, 4), losses, strict=True)]
        choices.append(Choice("w1a8", 8, {8: 1e-9}, 0, 1e9))
        operators.append(Operator(f"conv{i}", (tensors[-1].name,), f"t{i}", tuple(choices), (True,)))
        tensors.append(Tensor(f"t{i}", (8,)))
    problem = Problem(tuple(operators), tuple(tensors))
    assert solve(problem, objective="loss").loss == pytest.approx(sum(map(min, sane)), rel=1e-9)
    budget = 6 * 7.0  # six bits on average
    best = {0: 0.0}  # latency so far -> least loss, by dynamic programming over whole microseconds
    for losses in sane:
        step = {}
        for us, loss in best.items():
            for w, more in zip((8, 6, 4), losses, strict=True):
                step[us + 1 + w] = min(step.get(us + 1 + w, 1.0), loss + more)
        best = step
    least = min(loss for us, loss in best.items() if us <= budget)
    assert solve(problem, Limits(latency_us=budget), "loss").loss == pytest.approx(least, rel=1e-6)


def test_equal_problems_give_equal_solutions(network):
    limits = Limits(loss=0.5)
    first, second = (solve(network(24), limits) for _ in range(2))
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)


def test_network_of_160_operators_is_proven_in_seconds(network):
    problem = network(160)
    found = solve(problem, Limits(loss=20.0))
    assert (found.status, found.gap < 1e-6) == ("optimal", True)
    assert found.loss <= 20.0 and found.seconds < 30
    assert price(problem, found.choices, found.formats).latency_us == found.latency_us


def test_time_out_is_not_called_optimal(network):
    problem = network(60)
    with pytest.raises(InvalidValueError, match=r"time_limit_sec must be long enough .* \(got 1e-06\)"):
        solve(problem, Limits(latency_us=6000.0), "loss", time_limit_sec=1e-6)


def test_time_out_with_an_assignment_reports_bound_and_gap(network, monkeypatch):
    problem = network(12)
    real = ilp.run

    def cut_short(lp, time_limit_sec):
        outcome = real(lp, time_limit_sec)
        return Run("time_limit", True, outcome.bound * 0.5, time_limit_sec)

    monkeypatch.setattr(ilp, "run", cut_short)
    found = solve(problem, Limits(loss=0.5), time_limit_sec=2.0)
    assert found.status == "time_limit"
    assert 0 < found.bound < found.objective
    assert found.gap == pytest.approx((found.objective - found.bound) / found.objective)


def test_time_out_in_a_later_step_keeps_the_proof_of_the_first(network, monkeypatch):
    real = ilp.run
    calls = []

    def second_times_out(lp, time_limit_sec):
        calls.append(lp)
        outcome = real(lp, time_limit_sec)
        return outcome if len(calls) == 1 else Run("time_limit", False, float("-inf"), 0.1)

    monkeypatch.setattr(ilp, "run", second_times_out)
    found = solve(network(6))
    assert (found.status, found.gap) == ("time_limit", pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"objective": "speed"}, r"objective must be one of loss, size, energy, latency \(got 'speed'\)"),
        ({"time_limit_sec": 0}, r"time_limit_sec must be above 0 \(got 0\)"),
        ({"forbid": [{}]}, "must name at least one operator"),
        ({"forbid": [{"c": "w8a8"}]}, r"no operator 'c'; known are a, b"),
        ({"limits": Limits(energy_mj=1.0)}, "operator 'a': energy of choice 'w8a8' is unknown"),
        ({"objective": "energy"}, "operator 'a': energy of choice 'w8a8' is unknown"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(InvalidValueError, match=text):
        solve(_chain(), **arguments)


def test_solver_is_named_with_its_version():
    assert solve(_chain()).solver.startswith("HiGHS ")


def test_a_format_for_copies_only_is_never_emitted():
    conv = Operator("a", ("x",), "t", (Choice("w8a8", 8, {8: 1.0}),), (True,))
    narrow = Operator("b", ("t",), "y", (Choice("w2a4", 4, {32: 1.0}),), (True,))
    residual = Operator("c", ("t",), "z", (Choice("a8", 8, {32: 1.0}),), (False,))
    costs = {(8, 4): 5.0, (4, 8): 5.0}

    def solved(copies_only: tuple[int, ...]) -> Solution:
        tensors = (
            Tensor("x", (8,), fixed=8),
            Tensor("t", (8, 4), costs, copies_only=copies_only),
            Tensor("y", (32,)),
            Tensor("z", (32,)),
        )
        return solve(Problem((conv, narrow, residual), tensors), objective="latency")

    assert solved(()).formats["t"] == 4 and not solved(()).conversions
    assert solved((4,)).formats["t"] == 8 and solved((4,)).conversions == (("t", 8, 4),)
