"""What HAQ's agent walks over: bits of actions, states, cuts and rewards. Agents that learn are tested elsewhere."""

import dataclasses
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpq_testing.walks import chain, draw
from tvm_mpq.errors import InfeasibleError, InvalidValueError
from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.methods.completion import Completion
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.haq import CUTS, STATE_SIZE, Haq, LayerWalk, cheapest, from_the_last
from tvm_mpq.select.methods.offered_bits import OfferedBits, meant
from tvm_mpq.select.methods.search import PlanSearcher, Search
from tvm_mpq.select.problem import Choice, Limits


def search_of(problem, limits, most=10**6, objective="loss"):
    return Search(Completion(problem), limits, objective, (), Effort(0, most), 1, lambda p: p.labels, 1)


def rewards_of(search):
    """(action for weights, action for activations) -> reward, of a walk over one operator."""
    walk = LayerWalk(search, layers_of(search), (0,), from_the_last, 1)

    def reward(*actions):
        walk.begin()
        assert walk.act(actions[0])[1] is None
        return walk.act(actions[1])[1]

    return reward


def with_losses(change):
    """One operator, whose choices have other losses: those that `change` makes of label and loss."""
    problem = chain((1, 1.0))
    (operator,) = problem.operators
    choices = tuple(dataclasses.replace(c, loss=change(c.label, c.loss)) for c in operator.choices)
    return dataclasses.replace(problem, operators=(dataclasses.replace(operator, choices=choices),))


def layers_of(search):
    return {i: OfferedBits(choices) for i, choices in enumerate(search.completion.choices)}


def labels_of(search, plan):
    return [search.completion.choices[i][c].label for i, c in enumerate(plan.labels)]


@pytest.mark.parametrize("least, most", [(2, 8), (1, 8), (4, 8)])
def test_actions_mean_what_they_mean_in_the_paper(least, most):
    for action in [random.Random(0).random() for _ in range(200)]:
        assert meant(action, range(least, most + 1)) == round(least - 0.5 + action * (most - least + 1))
    assert [meant(a, (2, 4, 8)) for a in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)] == [2, 2, 4, 4, 8, 8]


def test_offered_bits():
    labels = ("fp32", "w8a8", "w4a8", "w4a4", "w2a4")
    offered = OfferedBits([Choice(n, 32 if n == "fp32" else int(n[3]), {8: 1.0}) for n in labels])
    assert (len(offered), offered.most, offered.fewest, offered.weights) == (4, 1, 4, (2, 4, 8))
    assert (offered.activations(4), offered.activations(8), offered.index(4, 4)) == ((4, 8), (8,), 3)
    assert [offered.fewer_weights(i) for i in (1, 2, 3, 4)] == [2, 4, 4, None]
    assert [offered.fewer_activations(i) for i in (1, 2, 3, 4)] == [None, 3, None, None]
    assert [sorted(offered.fewer(i)) for i in (1, 2, 3, 4)] == [[2, 3, 4], [3, 4], [4], []]
    assert len(OfferedBits([Choice("fp32", 32, {32: 1.0})])) == 1


def test_the_papers_cut_goes_from_the_last_operator_backwards():
    """Position, not cost: the last one gives bits first, though it saves least and loses most."""
    problem = chain((10, 0.1), (1, 9.0))
    search = search_of(problem, Limits(latency_us=700))  # 640 + 64 at 8 bits
    plan = from_the_last(search, search.start((0, 0)), layers_of(search))
    assert labels_of(search, plan) == ["w8a8", "w8a4"]
    search = search_of(problem, Limits(latency_us=400))
    plan = from_the_last(search, search.start((0, 0)), layers_of(search))
    assert labels_of(search, plan) == ["w8a4", "w4a4"]
    search = search_of(problem, Limits(latency_us=100))
    plan = from_the_last(search, search.start((0, 0)), layers_of(search))
    assert labels_of(search, plan) == ["w4a2", "w2a2"]


def test_the_other_cut_takes_what_costs_least():
    search = search_of(chain((10, 0.1), (1, 9.0)), Limits(latency_us=400))
    plan = cheapest(search, search.start((0, 0)), layers_of(search))
    assert labels_of(search, plan)[1] == "w8a8" and search.excess(plan) == 0


@pytest.mark.parametrize("cut", CUTS.values())
def test_a_cut_that_does_not_get_there(cut):
    search = search_of(chain((1, 1.0), (1, 1.0)), Limits(latency_us=7))
    assert cut(search, search.start((0, 0)), layers_of(search)) is None
    assert search.nearest < 1 / 6  # 8 us at w2a2 everywhere


@pytest.mark.parametrize("cut", CUTS)
@settings(max_examples=25, deadline=None)
@given(
    layers=st.lists(st.tuples(st.integers(1, 9), st.floats(0.01, 9)), min_size=1, max_size=5),
    shares=st.tuples(*[st.floats(0.1, 1.2)] * 2),
    seed=st.integers(0, 99),
)
def test_budgets_are_kept(cut, layers, shares, seed):
    """Costs fall with the bits here, so that whatever the fewest bits keep is kept."""
    problem = chain(*layers)
    int8, least = (cost(problem, uniform(problem, label)) for label in ("w8a8", "w2a2"))
    limits = Limits(latency_us=shares[0] * int8.latency_us, size_bytes=shares[1] * int8.size_bytes)
    within = least.latency_us <= limits.latency_us and least.size_bytes <= limits.size_bytes
    searcher = PlanSearcher(Haq(draw, cut=cut, episodes=3), Effort(seed))
    if not within:
        with pytest.raises(InfeasibleError, match="haq found no plan within"):
            searcher.best(problem, limits, "loss")
        return
    found = searcher.best(problem, limits, "loss")
    assert found.latency_us <= limits.latency_us * (1 + 1e-9)
    assert found.size_bytes <= limits.size_bytes * (1 + 1e-9)


@pytest.mark.parametrize("cut", CUTS)
def test_energy_is_a_budget_like_any_other(small_problem, cut):
    kept = 0
    for seed in range(20):
        problem = small_problem(seed)
        most = sum(max(c.energy_mj for c in o.choices) for o in problem.operators)
        try:
            found = PlanSearcher(Haq(draw, cut=cut, episodes=5), Effort()).best(
                problem, Limits(energy_mj=0.6 * most), "loss"
            )
        except InfeasibleError:
            continue
        assert found.energy_mj <= 0.6 * most + 1e-9
        kept += 1
    assert kept > 5


def test_states_are_ten_numbers_of_the_operator_and_the_last_action():
    shapes = [
        Conv2dWorkload(1, 32, 32, 8, 16, (3, 3), stride=(2, 2)),
        Conv2dWorkload(1, 16, 16, 16, 16, (3, 3), groups=16),
        Conv2dWorkload(1, 1, 1, 256, 10, (1, 1)),
    ]
    search = search_of(chain((1, 1), (1, 1), (1, 1), workloads=shapes), Limits())
    walk = LayerWalk(search, layers_of(search), (0, 0, 0), from_the_last, 1)
    states = [walk.begin()]
    for action in (0.25, 0.5, 0.75):
        states.append(walk.act(action)[0])
    #                   index, in, out, kernel, stride, map, weights, depthwise, for weights, last action
    assert states[0] == (0, 0, 1, 1, 1, 1, pytest.approx((1152 - 144) / (2560 - 144)), 0, 1, 1)
    assert states[1] == (*states[0][:8], 0, 0.25)
    assert states[2] == (0.5, pytest.approx(8 / 248), 1, 1, 0, pytest.approx(255 / 1023), 0, 1, 1, 0.5)
    assert states[3] == (*states[2][:8], 0, 0.75)
    assert all(len(s) == STATE_SIZE and all(0 <= x <= 1 for x in s) for s in states)


def test_rewards_rank_plans():
    """8 bits lose nothing, fewest bits all there is; outside of the limits is worse than any plan inside."""
    reward = rewards_of(search_of(chain((1, 1.0)), Limits()))
    assert [reward(1, 1), reward(0, 0)] == [0, -1]
    assert reward(0.5, 1) == pytest.approx(-math.log1p(1 / 0.008) / math.log1p(8 / 0.008))  # loses 1 of 8
    reward = rewards_of(search_of(chain((1, 1.0)), Limits(latency_us=3)))
    assert (reward(0, 0), reward(1, 1)) == (pytest.approx(-1 - 1 / 3), -2)


def test_rewards_are_in_units_of_what_8_bits_have():
    """Losses of 2 at 8 bits and 10 at the fewest; microseconds, of which 64 become 4: less is rewarded."""
    reward = rewards_of(search_of(with_losses(lambda label, loss: loss + 2), Limits()))
    assert reward(0.5, 1) == pytest.approx(-math.log1p(1 / 2) / math.log1p(8 / 2))
    reward = rewards_of(search_of(chain((1, 1.0)), Limits(), objective="latency"))
    assert [reward(1, 1), reward(0, 0)] == [0, 1]
    assert reward(0.5, 1) == pytest.approx(math.log1p(32 / 60) / math.log1p(1))  # units are no larger than the span


def test_rewards_at_the_edges():
    reward = rewards_of(search_of(with_losses(lambda label, loss: 20.0 if label == "w4a4" else loss), Limits()))
    assert reward(0.5, 0.5) == -1  # loses more than the fewest bits do
    search = search_of(chain((1, 0.0)), Limits())
    reward = rewards_of(search)
    assert [reward(1, 1), reward(0, 0)] == [0, 0]  # nothing loses anything
    search.start = lambda labels: None  # no formats fit
    assert reward(1, 1) == -2


def test_ends_are_held_at_8_bits(network):
    problem = network(5)
    limits = Limits(latency_us=0.8 * cost(problem, uniform(problem, "w8a8")).latency_us)
    for cut in CUTS:
        found = PlanSearcher(Haq(draw, cut=cut, pin_ends=True, episodes=20), Effort()).best(problem, limits, "loss")
        assert found.choices["conv0"] == found.choices["conv4"] == "w8a8"


def test_the_trace_tells_of_the_walks():
    searcher = PlanSearcher(Haq(draw, episodes=200), Effort())
    found = searcher.best(chain((2, 1), (1, 2)), Limits(latency_us=100), "loss")
    assert len(searcher.trace) == 100 and searcher.trace[-1].best == found.loss
    assert all(0 < point.acceptance < 1 for point in searcher.trace[5:])


def test_progress_is_told_in_walks():
    heard = []
    effort = Effort(progress=lambda *told: heard.append(told))
    PlanSearcher(Haq(draw, episodes=5), effort).best(chain((2, 1), (1, 2)), Limits(), "loss")
    assert [told[:2] for told in heard if told[1] == 5] == [(1, 5), (2, 5), (3, 5), (4, 5)]


def test_an_unknown_cut():
    with pytest.raises(InvalidValueError, match=r"cut must be one of last, cheapest \(got 'first'\)"):
        Haq(draw, cut="first")
