"""HAQ's agent: what it stores, how it explores, and that it learns. Walks themselves are tested in select."""

import random
import tempfile

import numpy as np
import pytest

from mpq_testing.slowly import slow_but
from mpq_testing.walks import Killed, Killing, chain, draw, least_loss
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.methods.completion import Completion
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.haq import Haq, LayerWalk, from_the_last
from tvm_mpq.select.methods.offered_bits import OfferedBits
from tvm_mpq.select.methods.search import PlanSearcher, Search
from tvm_mpq.select.problem import Limits

pytest.importorskip("stable_baselines3", reason="needs the extra rl")

import torch

from tvm_mpq.agents import ddpg

LAYERS = ((4.0, 0.2), (1.0, 3.0), (6.0, 1.0), (2.0, 0.5))


@pytest.fixture
def walk():
    problem = chain(*LAYERS[:2])
    search = Search(Completion(problem), Limits(), "loss", (), Effort(), 10**6, lambda p: p.labels, 1)
    layers = {i: OfferedBits(choices) for i, choices in enumerate(search.completion.choices)}
    return LayerWalk(search, layers, (0, 0), from_the_last, 100)


def transition(value):
    """State, next state and action of one environment, all of one number."""
    states = [np.full((1, 10), value + step, np.float32) for step in (0, 1)]
    return (*states, np.full((1, 1), value / 10, np.float32))


def test_every_step_of_a_walk_is_stored_with_the_reward_of_its_end(walk):
    buffer = ddpg.agent_for(walk, 0).replay_buffer
    for value in range(3):
        buffer.add(*transition(value), np.zeros(1), np.array([False]), [{}])
    assert buffer.size() == 0  # nothing is learned from a walk that goes on
    buffer.add(*transition(3), np.array([-0.5]), np.array([True]), [{}])
    assert buffer.size() == 4
    assert buffer.rewards[:4, 0].tolist() == [-0.5] * 4 and buffer.dones[:4, 0].tolist() == [0, 0, 0, 1]
    assert buffer.observations[:4, 0, 0].tolist() == [0, 1, 2, 3]
    assert buffer.next_observations[:4, 0, 0].tolist() == [1, 2, 3, 4]
    for value in range(4):
        buffer.add(*transition(value), np.array([-0.1]), np.array([value == 3]), [{}])
    assert buffer.rewards[4:8, 0].tolist() == pytest.approx([-0.1] * 4)
    sampled = buffer.sample(1000).rewards
    assert float(sampled.max() - sampled.min()) == pytest.approx(2)  # 0.4 apart, of a standard deviation of 0.2
    assert abs(float(sampled.mean())) < 1e-5  # the average of the first batch is its own
    before, buffer.rewards[:8] = buffer.baseline, 1.0
    sampled = buffer.sample(10).rewards  # all alike: nothing to divide by
    assert buffer.baseline == pytest.approx((before + 1) / 2) and float(sampled[0]) == pytest.approx((1 - before) / 2)


def test_exploration_is_truncated_and_narrows(walk):
    """Clipped noise would pile up at the ends: at sigma 1 around 0 a third of it lies outside."""
    agent = ddpg.agent_for(walk, 0)
    state = np.zeros((1, 10), np.float32)
    agent.policy.sigma = 1.0
    drawn = np.array([agent.policy.predict(state)[0] for _ in range(300)])
    assert drawn.min() >= 0 and drawn.max() <= 1 and np.mean((drawn == 0) | (drawn == 1)) == 0
    assert 0.2 < drawn.std() < 0.32
    agent.policy.sigma = 0.0
    assert agent.policy.predict(state)[0] == agent.policy.predict(state, deterministic=True)[0]

    narrowing = ddpg.Narrowing()
    narrowing.init_callback(agent)
    sigmas = []
    for walks in (0, ddpg.WARM_UP, ddpg.WARM_UP + 10):
        agent.num_timesteps = walks * walk.steps
        narrowing.on_rollout_start()
        sigmas.append(agent.policy.sigma)
    assert sigmas == [1.0, 1.0, pytest.approx(0.99**10)]  # in [-1, 1]: twice the paper's


def test_the_actor_learns_slower(walk):
    agent = ddpg.agent_for(walk, 0)
    agent.learn((ddpg.WARM_UP + 2) * walk.steps, log_interval=None)
    rates = [net.optimizer.param_groups[0]["lr"] for net in (agent.actor, agent.critic)]
    assert rates == [1e-4, 1e-3]


def test_numbers_are_those_of_the_authors_code(walk):
    agent = ddpg.agent_for(walk, 0)
    assert (agent.gamma, agent.tau, agent.batch_size, agent.learning_starts) == (1.0, 0.01, 64, 20 * walk.steps)
    assert agent.replay_buffer.buffer_size == 64 * walk.steps
    assert (agent.train_freq.frequency, agent.train_freq.unit.value) == (1, "episode")
    for layers in (agent.actor.mu, agent.critic.qf0):
        assert [net.out_features for net in layers if isinstance(net, torch.nn.Linear)] == [300, 300, 1]


def test_nothing_is_learned_from_the_first_walks_before_they_are_over(walk):
    agent = ddpg.agent_for(walk, 0)
    before = [p.clone() for p in agent.actor.parameters()]
    agent.learn(ddpg.WARM_UP * walk.steps, log_interval=None)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.actor.parameters(), strict=True))
    agent.learn(walk.steps, log_interval=None, reset_num_timesteps=False)
    assert not all(torch.equal(a, b) for a, b in zip(before, agent.actor.parameters(), strict=True))


def test_generators_and_threads_of_the_caller_are_left_alone(walk):
    walk.episodes = ddpg.WARM_UP + 1
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random(), float(torch.rand(1))  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    threads = torch.get_num_threads()
    ddpg.learn(walk, 5)
    assert (random.random(), np.random.random(), float(torch.rand(1))) == expected  # noqa: NPY002
    assert torch.get_num_threads() == threads


def test_no_folder_is_left_behind(walk, tmp_path, monkeypatch):
    """The library makes one for logs that nobody asked for."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    walk.episodes = 2
    ddpg.learn(walk, 0)
    assert list(tmp_path.iterdir()) == []


def test_long_walks_are_learned_from_by_as_many_updates_as_others():
    problem = chain(*LAYERS * 8)
    search = Search(Completion(problem), Limits(), "loss", (), Effort(), 10**6, lambda p: p.labels, 1)
    layers = {i: OfferedBits(choices) for i, choices in enumerate(search.completion.choices)}
    longer = LayerWalk(search, layers, (0,) * 32, from_the_last, 100)
    assert longer.steps == 64 and ddpg.agent_for(longer, 0).gradient_steps == ddpg.MOST_UPDATES == 40


def test_the_last_walk_is_the_policys_own(walk):
    """Equal rewards twice: without noise, what was learned says the same again."""
    walk.episodes = ddpg.WARM_UP + 3
    taken = []

    class Watched:
        episodes, steps, recalled, keep = walk.episodes, walk.steps, walk.recalled, walk.keep

        def begin(self):
            taken.append([])
            return walk.begin()

        def act(self, action):
            taken[-1].append(action)
            return walk.act(action)

    agents = []
    with pytest.MonkeyPatch.context() as patch:
        made = ddpg.agent_for
        patch.setattr(ddpg, "agent_for", lambda *given: agents.append(made(*given)) or agents[-1])
        ddpg.learn(Watched(), 0)
    walks = [actions for actions in taken if len(actions) == walk.steps]
    assert len(walks) == walk.episodes
    state = walk.begin()
    for action in walks[-1]:
        said, _ = agents[0].predict(np.array(state, np.float32), deterministic=True)
        assert float(said[0]) == action
        state, _ = walk.act(action)


def limited():
    problem = chain(*LAYERS)
    return problem, Limits(latency_us=0.45 * cost(problem, uniform(problem, "w8a8")).latency_us)


def test_the_same_seed_walks_the_same_way():
    problem, limits = limited()
    runs = []
    for seed in (3, 3, 4):
        searcher = PlanSearcher(Haq(ddpg.learn, episodes=ddpg.WARM_UP + 6), Effort(seed))
        runs.append((searcher.best(problem, limits, "loss"), searcher.trace))
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[2][1]


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_walks_that_were_ended_go_on_as_if_they_had_not_been(saves, monkeypatch):
    """Killed after 10 (nothing learned yet), 20 or 30 of 36 walks: every later reward is the same."""
    monkeypatch.setattr(ddpg, "SAVED_EVERY", 10)
    agents, made = [], ddpg.agent_for
    monkeypatch.setattr(ddpg, "agent_for", lambda *given: agents.append(made(*given)) or agents[-1])
    problem, limits = limited()
    memories, outcome = Killing(saves), []
    for kept in (None, memories):
        searcher = PlanSearcher(Haq(ddpg.learn, episodes=36), Effort(3, memories=kept))
        if kept is not None:
            with pytest.raises(Killed):
                searcher.best(problem, limits, "loss")
            memories.saves = -1
            random.seed(9), np.random.seed(9), torch.manual_seed(9)  # noqa: NPY002  another process
            searcher = PlanSearcher(Haq(ddpg.learn, episodes=36), Effort(3, memories=kept))
        outcome.append((searcher.best(problem, limits, "loss"), searcher.trace))
    assert len(outcome[0][1]) == 36 and outcome[0] == outcome[1]
    assert memories.resumed == 10 * saves and memories.states == {}
    learned = [agent.actor.state_dict() for agent in (agents[0], agents[-1])]
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])


@pytest.mark.parametrize("cut", slow_but(["last", "cheapest"], "cheapest"))
def test_near_the_optimum(cut):
    """6,561 plans; at most 1,500 are priced."""
    problem, limits = limited()
    least = least_loss(problem, limits.latency_us)
    found = PlanSearcher(Haq(ddpg.learn, cut=cut, episodes=120), Effort(0, 1500)).best(problem, limits, "loss")
    assert found.latency_us <= limits.latency_us
    assert least <= found.loss <= 1.1 * least


def test_it_learns():
    """Late walks lose far less than drawn ones, on a problem where no cut helps."""
    problem, rewards = chain(*LAYERS[:2]), []
    for agent in (draw, ddpg.learn):
        searcher = PlanSearcher(Haq(agent, episodes=80), Effort(1))
        searcher.best(problem, Limits(), "loss")
        rewards.append(np.mean([point.score for point in searcher.trace[-20:]]))
    assert rewards[1] > rewards[0] + 0.3  # of the logarithm: an eighth of the loss
