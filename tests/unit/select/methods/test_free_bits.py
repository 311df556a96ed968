"""More bits where that is faster: never slower, never fewer bits, boundaries and readers looked at."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.schema import Precision
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.free_bits import raised
from tvm_mpq.select.methods.table import searcher_for
from tvm_mpq.select.problem import Choice, Limits, Operator, Problem, Tensor
from tvm_mpq.select.uniforms import weighted


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_never_slower_and_never_fewer_bits(small_problem, loosened, seed):
    problem, rng = loosened(small_problem(seed)), random.Random(seed)
    names = weighted(problem)
    drawn = {name: rng.choice(problem.operator(name).choices).label for name in names}
    try:
        before = cost(problem, drawn)
    except InfeasibleError:
        return
    after = raised(problem, before)
    assert after.latency_us < before.latency_us or after == before
    for name in names:
        old, new = Precision.parse(before.choices[name]), Precision.parse(after.choices[name])
        assert new.weight_bits >= old.weight_bits and new.activation_bits >= old.activation_bits
    assert raised(problem, after).latency_us == after.latency_us


def chain(*times, boundary=1.0, size=(0, 0)):
    """x -> a -> y -> b, c: three operators at w4a4 or w8a8; times: (w4a4, w8a8) of each."""
    convert = {(8, 4): boundary, (4, 8): boundary}
    tensors = (Tensor("x", (32, 8, 4), {(32, 8): 0.0, (32, 4): 0.0}, fixed=32), Tensor("y", (8, 4), convert))
    outputs = (Tensor("u", (8,)), Tensor("v", (8,)))

    def conv(name, source, output, us):
        choices = (Choice("w4a4", 4, {8: us[0]}, size[0]), Choice("w8a8", 8, {8: us[1]}, size[1]))
        return Operator(name, (source,), output, choices, (True,))

    wired = (("a", "x", "y"), ("b", "y", "u"), ("c", "y", "v"))
    return Problem(tuple(conv(*w, us) for w, us in zip(wired, times, strict=True)), tensors + outputs)


LOW = dict.fromkeys("abc", "w4a4")


def after(problem, limits=None):
    return raised(problem, cost(problem, LOW), limits)


def test_what_is_faster_with_more_bits_gets_them():
    found = after(chain((5, 3), (5, 6), (5, 5)))
    assert found.choices == {"a": "w8a8", "b": "w4a4", "c": "w4a4"}  # equal is not faster
    assert found.latency_us == 13


def test_a_boundary_that_costs_more_than_is_gained_is_not_crossed():
    """By the operator's own entry b would gain half a microsecond."""
    assert after(chain((5, 5), (5, 4.5), (5, 6))).choices == LOW


def test_readers_of_one_tensor_are_raised_together():
    """Alone, each would read a copy at 8 bits beside the other's 4, and lose; both together store the tensor at 8."""
    problem = chain((5, 5), (5, 4.5), (5, 4.8), boundary=3.0)
    assert after(problem).choices == {"a": "w4a4", "b": "w8a8", "c": "w8a8"}


def test_weights_do_not_pay_for_activations():
    """Faster with more bits of one and fewer of the other is not free."""
    choices = (Choice("w4a4", 4, {8: 5.0}), Choice("w2a8", 8, {8: 1.0}), Choice("w8a2", 2, {8: 1.0}))
    tensors = (Tensor("x", (8, 4, 2), {(8, 4): 0.0, (8, 2): 0.0}, fixed=8), Tensor("y", (8,)))
    problem = Problem((Operator("a", ("x",), "y", choices, (True,)),), tensors)
    assert raised(problem, cost(problem, {"a": "w4a4"})).choices == {"a": "w4a4"}


def test_limits_are_kept():
    problem = chain((5, 3), (5, 6), (5, 5), size=(10, 20))
    assert after(problem, Limits(size_bytes=30)).choices == LOW
    assert after(problem, Limits(size_bytes=40)).choices["a"] == "w8a8"


def test_after_any_method(network):
    """The solver's plan of least latency leaves nothing that is free; another's may."""
    problem = network(5)
    limits = Limits(latency_us=600.0)
    exact = searcher_for("ilp", Effort()).best(problem, Limits(), "latency")
    assert raised(problem, exact) == exact
    plain, freed = (
        searcher_for("random", Effort(evaluations=20), free_bits=f).several(problem, limits, 2, "latency", ["conv0"])
        for f in (False, True)
    )
    assert all(f.latency_us <= p.latency_us for p, f in zip(plain, freed, strict=True))
    assert any(
        f.latency_us < p.latency_us and f.solver.endswith("free bits") for p, f in zip(plain, freed, strict=True)
    )
    assert all(f.latency_us == pytest.approx(cost(problem, f.choices).latency_us) for f in freed)
