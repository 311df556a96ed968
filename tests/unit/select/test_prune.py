import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.select.ilp import THEN, Limits, solve
from tvm_mpq.select.problem import Choice, Problem
from tvm_mpq.select.prune import prune_dominated, prune_problem

GOOD = Choice("w4a8", 8, {8: 1.0, 32: 2.0}, 10, 0.5)


def _with(**fields):
    return dataclasses.replace(GOOD, label="w6a8", **fields)


@pytest.mark.parametrize(
    "other, stays",
    [
        (_with(latency_us={8: 1.5, 32: 2.0}), False),
        (_with(size_bytes=11), False),
        (_with(loss=0.6), False),
        (_with(), False),  # equal: the first stays
        (_with(latency_us={8: 1.0}), False),
        (_with(latency_us={8: 1.5, 32: 1.9}), True),
        (_with(latency_us={8: 1.5}, loss=0.4), True),
        (_with(loss=0.6, size_bytes=9), True),
        (_with(loss=0.6, in_bits=4), True),
        (_with(loss=0.6, energy_mj=1.0), True),
    ],
)
def test_only_what_is_worse_in_nothing_beats(other, stays):
    kept, pruned = prune_dominated((GOOD, other))
    assert kept == ((GOOD, other) if stays else (GOOD,))
    assert len(pruned) == 1 - stays


def test_the_reason_names_the_choice_that_stays():
    worst = _with(loss=0.9)
    middle = dataclasses.replace(GOOD, label="w5a8", loss=0.7)
    kept, pruned = prune_dominated((worst, middle, GOOD))
    assert kept == (GOOD,)
    assert [p.beaten_by for p in pruned] == ["w4a8", "w4a8"]
    assert pruned[0].reason == (
        "w6a8 is never better than w4a8: w4a8 takes 1 to 1 us emitting integers, 2 to 2 us emitting float32, "
        "10 to 10 bytes, loss 0.5 to 0.9"
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), objective=st.sampled_from(sorted(THEN)))
def test_pruning_keeps_the_optimum(small_problem, seed, objective):
    problem = small_problem(seed)
    doubled = Problem(
        tuple(dataclasses.replace(o, choices=(_worse(o.choices[0]), *o.choices)) for o in problem.operators),
        problem.tensors,
        problem.fixed_us,
        problem.call_us,
    )
    pruned, removed = prune_problem(doubled)
    assert {(p.operator, p.label) for p in removed} >= {(o.name, "worse") for o in problem.operators}
    try:
        before = solve(doubled, Limits(), objective)
    except InfeasibleError:
        with pytest.raises(InfeasibleError):
            solve(pruned, Limits(), objective)
        return
    assert solve(pruned, Limits(), objective).objective == pytest.approx(before.objective, abs=1e-9)


def _worse(choice):
    return dataclasses.replace(choice, label="worse", size_bytes=choice.size_bytes + 1, loss=choice.loss + 1)
