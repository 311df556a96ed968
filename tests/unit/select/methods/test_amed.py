"""The chain: what it samples, what it never enters, what it tells."""

import itertools
import json
import math
from collections import Counter

import pytest

from mpq_testing.walks import Killed, Killing, chain
from tvm_mpq.errors import InfeasibleError
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.methods.amed import Amed
from tvm_mpq.select.methods.completion import Completion
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.search import PlanSearcher, Search
from tvm_mpq.select.problem import Choice, Limits, Operator, Problem, Tensor


@pytest.fixture
def tiny():
    """Two operators of three choices, without boundaries: nine plans."""
    tensors = (Tensor("x", (8,), fixed=8), Tensor("y", (8,)), Tensor("z", (8,)))

    def conv(name, source, output, losses):
        labels = zip(("w8a8", "w4a8", "w2a8"), (3.0, 2.0, 1.0), losses, strict=True)
        return Operator(name, (source,), output, tuple(Choice(n, 8, {8: us}, 1, v) for n, us, v in labels), (True,))

    return Problem((conv("a", "x", "y", (0.0, 0.4, 1.0)), conv("b", "y", "z", (0.1, 0.2, 1.5))), tensors)


def search_of(problem, limits, evaluations, seed=0):
    return Search(Completion(problem), limits, "loss", (), Effort(seed, evaluations), 1, lambda p: p.labels, 1)


def test_the_stationary_distribution(tiny):
    """At one temperature and penalty, plans are visited as exp(-score / temperature) says: chi-square, thinned.

    8 degrees of freedom: 26.1 is exceeded once in a thousand seeds; this seed is fixed.
    """
    temperature, penalty, limits = 0.8, 2.0, Limits(latency_us=4.0)
    amed = Amed(temperatures=(temperature, temperature), penalties=(penalty, penalty))
    search = search_of(tiny, limits, 10**6)
    every, draws = 10, 4000
    states = itertools.islice(amed.chain(search, search.start((0, 0)), scale=1.0), every - 1, every * draws, every)
    seen = Counter(plan.labels for plan, _, _ in states)
    weights = {}
    for labels in itertools.product(range(3), repeat=2):
        plan = search.completion.complete(labels)
        excess = max(0.0, plan.latency_us / 4.0 - 1)
        weights[labels] = math.exp(-(plan.loss + penalty * excess) / temperature)
    expected = {labels: draws * w / sum(weights.values()) for labels, w in weights.items()}
    assert sum(seen.values()) == draws and min(expected.values()) > 20
    assert sum((seen[k] - expected[k]) ** 2 / expected[k] for k in expected) < 26.1


def test_limits_that_ask_for_the_largest_losses_are_searched_within():
    """Five operators lose ten million times what the others do, and only their fewest bits are fast enough.

    A move of three operators does not get there from 8 bits; of uniform plans one does, which is not the best.
    """
    problem = chain(*[(1.0, 1e-5)] * 8, *[(20.0, 100.0)] * 5)
    limits = Limits(latency_us=470.0)
    found = PlanSearcher(Amed(), Effort(evaluations=4000)).best(problem, limits, "loss")
    assert all(found.choices[f"conv{i}"] == "w2a2" for i in range(8, 13)) and found.latency_us <= 470
    assert found.loss < cost(problem, uniform(problem, "w2a2")).loss


def test_nothing_above_the_allowed_size_is_ever_a_state(network):
    problem = network(6)
    int8 = cost(problem, uniform(problem, "w8a8"))
    search = search_of(problem, Limits(size_bytes=int8.size_bytes), 10**6)
    amed = Amed()
    start = search.start(search.completion.labels_of(int8.choices))
    visited = [plan for plan, _, _ in itertools.islice(amed.chain(search, start, scale=1.0), 500)]
    assert max(plan.size_bytes for plan in visited) <= int8.size_bytes
    assert len({plan.labels for plan in visited}) > 20


def test_a_start_above_the_allowed_size_only_shrinks(network):
    problem = network(6)
    search = search_of(problem, Limits(size_bytes=1), 10**6)
    fp32 = search.completion.labels_of(uniform(problem, "fp32"))
    states = itertools.islice(Amed().chain(search, search.start(fp32), scale=1.0), 300)
    sizes = [plan.size_bytes for plan, _, _ in states]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 4


def test_ends_are_held_at_8_bits(network):
    problem = network(6)
    int8 = cost(problem, uniform(problem, "w8a8"))
    limits = Limits(latency_us=0.8 * int8.latency_us)
    found = PlanSearcher(Amed(pin_ends=True), Effort(evaluations=3000)).best(problem, limits, "loss")
    assert found.choices["conv0"] == found.choices["conv5"] == "w8a8"
    free = PlanSearcher(Amed(), Effort(evaluations=3000)).best(problem, limits, "loss")
    assert free.loss < found.loss


def test_the_trace_tells_how_it_went(network):
    problem = network(6)
    limits = Limits(latency_us=0.7 * cost(problem, uniform(problem, "w8a8")).latency_us)
    searcher = PlanSearcher(Amed(), Effort(evaluations=5000))
    found = searcher.best(problem, limits, "loss")
    best = [point.best for point in searcher.trace]
    assert best == sorted(best, reverse=True) and best[-1] == found.loss and 50 < len(best) <= 100
    acceptance = [point.acceptance for point in searcher.trace]
    assert acceptance[0] > acceptance[-1] > 0  # it cools


@pytest.mark.parametrize("saves", [1, 4])
def test_a_chain_that_was_ended_goes_on_as_if_it_had_not_been(network, saves):
    problem = network(6)
    limits = Limits(latency_us=0.7 * cost(problem, uniform(problem, "w8a8")).latency_us)
    names, memories = ["conv0", "conv3"], Killing(saves)
    whole = PlanSearcher(Amed(), Effort(5, 2000))
    expected = whole.several(problem, limits, 4, "loss", names)
    with pytest.raises(Killed):
        PlanSearcher(Amed(), Effort(5, 2000, memories=memories)).several(problem, limits, 4, "loss", names)
    assert len(memories.states) == 1
    again = PlanSearcher(Amed(), Effort(5, 2000, memories=memories))
    assert again.several(problem, limits, 4, "loss", names) == expected
    assert again.trace == whole.trace
    assert memories.resumed == 200 * saves and memories.states == {}


class Renamed(Amed):
    """Another method of the same settings."""

    name = "renamed"


@pytest.mark.parametrize(
    "other",
    [
        lambda memories, problem, limits: (Amed(), Effort(1, 400, memories=memories), problem, limits),
        lambda memories, problem, limits: (Amed(), Effort(0, 401, memories=memories), problem, limits),
        lambda memories, problem, limits: (Renamed(), Effort(0, 400, memories=memories), problem, limits),
        lambda memories, problem, limits: (Amed(pin_ends=True), Effort(0, 400, memories=memories), problem, limits),
        lambda memories, problem, limits: (Amed(), Effort(0, 400, memories=memories), problem, Limits()),
        lambda memories, problem, limits: (Amed(), Effort(0, 400, memories=memories), chain(*[(1.0, 2.0)] * 6), limits),
    ],
)
def test_no_other_search_goes_on_from_it(network, other):
    problem, limits = network(6), Limits(latency_us=1e6)
    memories = Killing(1)
    with pytest.raises(Killed):
        PlanSearcher(Amed(), Effort(0, 400, memories=memories)).best(problem, limits, "loss")
    (state,) = memories.states
    method, effort, *asked = other(memories, problem, limits)
    PlanSearcher(method, effort).best(*asked, "loss")
    assert list(memories.states) == [state] and memories.resumed == 0


@pytest.mark.parametrize(("count", "among"), [(1, ("conv0", "conv3")), (4, ("conv0", "conv2"))])
def test_who_asks_for_other_plans_begins_anew(network, count, among):
    problem, limits, memories = network(6), Limits(latency_us=1e6), Killing(1)
    with pytest.raises(Killed):
        PlanSearcher(Amed(), Effort(0, 400, memories=memories)).several(problem, limits, 4, "loss", ("conv0", "conv3"))
    PlanSearcher(Amed(), Effort(0, 400, memories=memories)).several(problem, limits, count, "loss", among)
    assert len(memories.states) == 1 and memories.resumed == 0


def test_what_came_nearest_before_is_still_told():
    """Before the fourth save; no later step comes as near."""
    problem, limits, memories = chain(*[(1.0, 1.0)] * 6), Limits(latency_us=1.0), Killing(4)
    told = []
    for kept in (None, memories):
        searcher = PlanSearcher(Amed(), Effort(0, 400, memories=kept))
        if kept is not None:
            with pytest.raises(Killed):
                searcher.best(problem, limits, "loss")
            memories.saves = -1
        with pytest.raises(InfeasibleError) as caught:
            searcher.best(problem, limits, "loss")
        told.append(str(caught.value))
    assert told[0] == told[1] and "the nearest exceeds them by" in told[0]


def test_seconds_spent_before_count():
    """Ended after 6 ticks of a clock, of 10: 4 are left."""
    problem, memories, ticks = chain(*[(1.0, 1.0)] * 6), Killing(1), itertools.count()
    effort = Effort(0, 10**4, 40.0, lambda: float(next(ticks)), memories=memories)
    with pytest.raises(Killed):
        PlanSearcher(Amed(), effort).best(problem, Limits(), "loss")
    spent = json.loads(next(iter(memories.states.values())))["search"]["seconds"]
    first = next(ticks)
    PlanSearcher(Amed(), effort).best(problem, Limits(), "loss")
    assert 4 < spent < 10 and next(ticks) - first <= 40 - spent + 4


def test_a_network_without_a_choice():
    tensors = (Tensor("x", (8,), fixed=8), Tensor("y", (8,)))
    conv = Operator("a", ("x",), "y", (Choice("w8a8", 8, {8: 3.0}),), (True,))
    assert PlanSearcher(Amed(), Effort()).best(Problem((conv,), tensors), Limits(), "loss").latency_us == 3.0
