"""Bits that something learned become plans: what is offered, what is free after it, the best within the limits."""

import pytest

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.schema import Precision
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.learned_bits import runnable
from tvm_mpq.select.methods.table import searcher_for
from tvm_mpq.select.problem import Choice, Limits, Operator, Problem, Tensor
from tvm_mpq.select.uniforms import weighted


def choices(*labels):
    return [Choice(label, 32 if label == "fp32" else int(label[3]), {8: 1.0}) for label in labels]


@pytest.mark.parametrize("bits, label", [
    ("w8a8", "w8a8"), ("w4a8", "w4a8"), ("w3a8", "w4a8"), ("w2a4", "w2a4"), ("w3a4", "w4a8"), ("w8a4", "w8a8"),
    ("fp32", "fp32"),
])  # fmt: skip
def test_the_least_choice_with_no_fewer_bits(bits, label):
    offered = choices("fp32", "w8a8", "w4a8", "w2a4")
    assert runnable(offered, Precision.parse(bits)).label == label


def test_where_all_have_fewer_bits_the_one_with_most():
    assert runnable(choices("w2a4", "w7a8", "w4a8"), Precision(8, 8)).label == "w7a8"


def searcher(plans, **effort):
    asked = []

    def learn(problem):
        asked.append(problem)
        return [{name: Precision.parse(p) for name, p in bits.items()} for bits in plans]

    return searcher_for("freebits", Effort(**effort), bits=learn), asked


def pair(*times):
    """x -> a -> y -> b at w2a8, w4a8 or w8a8, which lose 4, 2 and 1; times: of each."""

    def conv(name, source, output, us):
        made = zip(("w2a8", "w4a8", "w8a8"), us, (4.0, 2.0, 1.0), strict=True)
        return Operator(name, (source,), output, tuple(Choice(p, 8, {8: t}, 0, loss) for p, t, loss in made), (True,))

    tensors = tuple(Tensor(name, (8,), fixed=8 if name == "x" else None) for name in "xyz")
    return Problem((conv("a", "x", "y", times[0]), conv("b", "y", "z", times[1])), tensors)


def test_what_is_faster_with_more_bits_gets_them_before_a_plan_is_chosen():
    """Learned plans are outside of the limit; after the step one is within."""
    problem = pair((5.0, 3.0, 6.0), (5.0, 5.0, 5.0))
    found, _ = searcher([{"a": "w2a8", "b": "w2a8"}])
    solution = found.best(problem, Limits(latency_us=8.0), "loss")
    assert solution.choices == {"a": "w4a8", "b": "w2a8"}  # equal is not faster: b stays
    assert solution.latency_us == 8.0 and solution.solver == "freebits, seed 0"
    with pytest.raises(InfeasibleError, match="freebits found no plan within the limits"):
        found.best(problem, Limits(latency_us=7.9), "loss")


def test_the_best_of_what_was_learned_within_the_limits():
    problem = pair((2.0, 3.0, 4.0), (2.0, 3.0, 4.0))
    plans = [dict.fromkeys("ab", p) for p in ("w8a8", "w4a8", "w2a8")] + [{"a": "w8a8", "b": "w2a8"}]
    found, asked = searcher(plans)
    assert found.best(problem, Limits(latency_us=6.5), "loss").choices == dict.fromkeys("ab", "w4a8")
    assert found.best(problem, Limits(latency_us=6.5), "latency").choices == dict.fromkeys("ab", "w2a8")
    both = found.several(problem, Limits(latency_us=6.5), 2, "loss", ["a", "b"])
    assert [s.loss for s in both] == [4.0, 5.0]
    assert len(asked) == 1  # bits are learned once for a problem


def test_an_operator_without_bits_runs_in_floats():
    problem = pair((2.0, 3.0, 4.0), (2.0, 3.0, 4.0))
    found, _ = searcher([{"a": "w2a8"}])
    assert found.best(problem, Limits(), "loss").choices == {"a": "w2a8", "b": "w8a8"}  # the most there is


def test_boundaries_are_paid(network):
    """Every plan's price is that of the completed network."""
    problem = network(6)
    names = weighted(problem)
    found, _ = searcher([{n: f"w4a{4 if i % 2 else 8}" for i, n in enumerate(names)}, dict.fromkeys(names, "w2a4")])
    for solution in found.several(problem, Limits(), 4, "latency", names):
        assert solution.latency_us == pytest.approx(cost(problem, solution.choices).latency_us)
