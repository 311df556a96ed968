"""HAQ's agent (arXiv 1811.08886): deep deterministic policy gradients, by stable-baselines3 on a gymnasium environment.

What the paper does otherwise than the library stands here, at the library's own joints: the reward of a whole walk for
each of its steps, less a moving average (a replay buffer); exploration by a normal distribution truncated to what
actions may be (a policy), narrower from walk to walk (a callback); a slower actor (an algorithm). Networks, rates,
discount and sizes are those of the authors' code. Ours: rewards are divided by their standard deviation in the buffer,
because losses of tables have no unit of their own.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import update_learning_rate
from stable_baselines3.td3.policies import TD3Policy

from tvm_mpq.select.methods.haq import STATE_SIZE, LayerWalk

CRITIC_RATE, ACTOR_RATE = 1e-3, 1e-4
HIDDEN = [300, 300]
DISCOUNT, TARGET_RATE, BATCH = 1.0, 0.01, 64
MOST_UPDATES = 40  # after a walk; the paper makes as many as it had steps, which takes a minute for every 7,000
WARM_UP = 20  # walks of evenly drawn actions, before anything is learned
REMEMBERED = 64  # walks in the replay buffer
FIRST_SIGMA, SIGMA_DECAY = 0.5, 0.99  # of an action in [0, 1], and from walk to walk
BASELINE_RATE = 0.5  # of the moving average, a batch
SAVED_EVERY = 20  # walks, between two saved states


def learn(walk: LayerWalk, seed: int) -> None:
    """Walk and learn, `walk.episodes` times; implements `tvm_mpq.select.methods.haq.Learn`.

    The last walk is the policy's own, without noise. The state is saved every `SAVED_EVERY` walks; where one is found,
    it goes on from there, and walks as if it had not been ended.
    Equal seeds walk equally. Random states and threads of Python, NumPy and PyTorch are as before when it ends.
    """
    with _own_randomness():
        agent = agent_for(walk, seed)
        saved = walk.recalled()
        if saved is not None:
            put_back(agent, saved)
        left = (walk.episodes - 1) * walk.steps - agent.num_timesteps
        if left > 0:
            callbacks = [Narrowing(), Saving(walk)]
            agent.learn(left, callback=callbacks, log_interval=None, reset_num_timesteps=saved is None)
        state, reward = walk.begin(), None
        while reward is None:
            action, _ = agent.predict(np.array(state, np.float32), deterministic=True)
            state, reward = walk.act(float(action[0]))


def agent_for(walk: LayerWalk, seed: int) -> SlowActorDDPG:
    """The agent, before it has learned anything."""
    agent = SlowActorDDPG(
        TruncatedNoisePolicy,
        WalkEnvironment(walk),
        learning_rate=CRITIC_RATE,
        buffer_size=REMEMBERED * walk.steps,
        learning_starts=WARM_UP * walk.steps,
        batch_size=BATCH,
        tau=TARGET_RATE,
        gamma=DISCOUNT,
        train_freq=(1, "episode"),
        gradient_steps=min(walk.steps, MOST_UPDATES),
        replay_buffer_class=WalkBuffer,
        policy_kwargs={"net_arch": HIDDEN, "optimizer_kwargs": {"fused": True}},
        seed=seed,
        device="cpu",
    )
    agent.set_logger(Logger(folder=None, output_formats=[]))  # its own makes a folder and leaves it
    return agent


class WalkEnvironment(gymnasium.Env[Any, Any]):
    """A walk as gymnasium knows environments: states and actions in [0, 1], a reward at the end."""

    def __init__(self, walk: LayerWalk) -> None:
        self._walk = walk
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (STATE_SIZE,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return np.array(self._walk.begin(), np.float32), {}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        state, reward = self._walk.act(float(action[0]))
        return np.array(state, np.float32), reward or 0.0, reward is not None, False, {}


class WalkBuffer(ReplayBuffer):
    """Holds a walk's steps back until it ends, and gives each of them the reward of the end.

    Samples have it less a moving average over the batches, divided by its standard deviation in the buffer.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._walked: list[tuple[Any, ...]] = []
        self.baseline: float | None = None

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        self._walked.append((obs, next_obs, action, done, infos))
        if done[0]:
            for at, after, did, ended, told in self._walked:
                super().add(at, after, did, reward, ended, told)
            self._walked.clear()

    def sample(self, batch_size: int, env: Any = None) -> Any:
        batch = super().sample(batch_size, env)
        mean = float(batch.rewards.mean())
        self.baseline = mean if self.baseline is None else self.baseline + BASELINE_RATE * (mean - self.baseline)
        spread = float(self.rewards[: self.size()].std())
        return batch._replace(rewards=(batch.rewards - self.baseline) / (spread or 1.0))


class TruncatedNoisePolicy(TD3Policy):
    """Explores by a normal distribution around the actor's action, truncated to [-1, 1], as actions are inside here."""

    sigma = 0.0

    def _predict(self, observation: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        action = self.actor(observation)
        if deterministic or self.sigma == 0:
            return action
        return torch.nn.init.trunc_normal_(torch.empty_like(action), float(action), self.sigma, -1.0, 1.0)


class Narrowing(BaseCallback):
    """Sets the policy's sigma before each walk."""

    def _on_rollout_start(self) -> None:
        walks = self.model.num_timesteps // self.training_env.get_attr("_walk")[0].steps
        self.model.policy.sigma = 2 * FIRST_SIGMA * SIGMA_DECAY ** max(0, walks - WARM_UP)

    def _on_step(self) -> bool:
        return True


class Saving(BaseCallback):
    """Saves the state between two walks."""

    def __init__(self, walk: LayerWalk) -> None:
        super().__init__()
        self._walk = walk

    def _on_rollout_start(self) -> None:
        walks = self.num_timesteps // self._walk.steps
        if walks and walks % SAVED_EVERY == 0:
            self._walk.keep(state_of(self.model))

    def _on_step(self) -> bool:
        return True


_HELD = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""Arrays of the replay buffer, a row a step."""


def state_of(agent: SlowActorDDPG) -> str:
    """Whatever the next walks depend on, between two of them, as text; random generators are the process's own."""
    buffer = agent.replay_buffer
    drawn: tuple[Any, ...] = np.random.get_state(legacy=True)  # type: ignore[assignment]  # noqa: NPY002
    state = {
        "parameters": agent.get_parameters(),
        "counts": [agent.num_timesteps, agent._episode_num, agent._n_updates],
        "buffer": {name: torch.from_numpy(getattr(buffer, name)[: buffer.size()]) for name in _HELD},
        "at": [buffer.pos, buffer.full, buffer.baseline],
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(drawn[1].astype(np.int64)), *drawn[2:]],
        "actions": agent.action_space.np_random.bit_generator.state,
    }
    file = io.BytesIO()
    torch.save(state, file)
    return base64.b64encode(file.getvalue()).decode("ascii")


def put_back(agent: SlowActorDDPG, text: str) -> None:
    """The agent, new, and the generators go on where `state_of` was taken."""
    state = torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)
    agent.set_parameters(state["parameters"], device="cpu")
    agent.num_timesteps, agent._episode_num, agent._n_updates = state["counts"]
    buffer = agent.replay_buffer
    for name, rows in state["buffer"].items():
        getattr(buffer, name)[: len(rows)] = rows.numpy()
    buffer.pos, buffer.full, buffer.baseline = state["at"]
    torch.set_rng_state(state["torch"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    agent.action_space.np_random.bit_generator.state = state["actions"]


class SlowActorDDPG(DDPG):
    """The actor learns at its own rate; the library has one for both."""

    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        update_learning_rate(self.actor.optimizer, ACTOR_RATE)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """The library seeds and draws from global generators; and threads add sums in an order of their own."""
    python, legacy, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            np.random.set_state(legacy)  # noqa: NPY002
            random.setstate(python)
