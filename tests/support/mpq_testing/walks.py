"""A small problem to walk over, solved by hand or by trying everything, and stand-ins for what learns."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

from tvm_mpq.schema import Precision, Workload
from tvm_mpq.select.methods.haq import LayerWalk
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor
from tvm_mpq.select.uniforms import weighted

LOSSES = {8: 0.0, 4: 1.0, 2: 4.0}
"""Of an operator of weight 1 whose weights, or activations, have so many bits."""

_CONVERSIONS = dict.fromkeys(itertools.permutations(LOSSES, 2), 0.0)


def chain(*layers: tuple[float, float], workloads: Sequence[Workload] | None = None) -> Problem:
    """Operators one behind the other, (time, loss) each, without boundaries: wXaY takes time * X * Y microseconds.

    It loses loss * (LOSSES[X] + LOSSES[Y]) and weighs X bytes.
    """
    tensors, operators = [Tensor("in", tuple(LOSSES), _CONVERSIONS, fixed=8)], []
    for i, (us, loss) in enumerate(layers):
        choices = tuple(
            Choice(f"w{w}a{a}", a, {8: us * w * a}, w, loss * (LOSSES[w] + LOSSES[a]))
            for w, a in itertools.product(LOSSES, repeat=2)
        )
        shape = workloads[i] if workloads else None
        operators.append(Operator(f"conv{i}", (tensors[-1].name,), f"t{i}", choices, (True,), shape))
        tensors.append(Tensor(f"t{i}", tuple(LOSSES), _CONVERSIONS))
    return Problem(tuple(operators), tuple(tensors))


def least_loss(problem: Problem, latency_us: float) -> float:
    """The optimum of a chain within the limit, by trying everything."""
    plans = itertools.product(*(o.choices for o in problem.operators))
    return min(sum(c.loss for c in plan) for plan in plans if sum(c.latency_us[8] for c in plan) <= latency_us)


def draw(walk: LayerWalk, seed: int) -> None:
    """Every action is drawn evenly; implements `Learn`."""
    rng = random.Random(seed)
    for _ in range(walk.episodes):
        walk.begin()
        for _ in range(walk.steps):
            walk.act(rng.random())


def misjudged(problem: Problem) -> dict[tuple[str, str], float]:
    """Losses that are off by up to a factor of two; implements `EstimateLosses`."""
    rng = random.Random(5)
    return {(o.name, c.label): c.loss * rng.uniform(0.7, 1.4) for o in problem.operators for c in o.choices}


def learnt(problem: Problem) -> list[dict[str, Precision]]:
    """What a differentiable search might give: some bits everywhere, and others here and there;
    implements `LearnBits`."""
    names = weighted(problem)
    everywhere = [dict.fromkeys(names, Precision(w, a)) for w, a in ((8, 8), (4, 8), (4, 4), (2, 4))]
    return [{**bits, **dict.fromkeys(names[::2], Precision(4, 4))} for bits in everywhere] + everywhere


class Killed(BaseException):
    """The process ends here."""


class Killing:
    """Implements `Memories`, as JSON in a dictionary, and ends the process behind so many saves (-1: never).

    resumed: walks, or steps of a chain, that the state taken up last had behind it.
    """

    def __init__(self, saves: int) -> None:
        self.saves, self.resumed = saves, 0
        self.states: dict[str, str] = {}

    def __call__(self, search: str) -> _KillingMemory:
        return _KillingMemory(self, search)


class _KillingMemory:
    def __init__(self, all_of_them: Killing, search: str) -> None:
        self._all, self._search = all_of_them, search

    def load(self) -> dict[str, Any] | None:
        text = self._all.states.get(self._search)
        if text is None:
            return None
        state: dict[str, Any] = json.loads(text)
        self._all.resumed = state["method"].get("begun", state["method"].get("steps"))
        return state

    def save(self, state: dict[str, Any]) -> None:
        self._all.states[self._search] = json.dumps(state, allow_nan=False)
        self._all.saves -= 1
        if self._all.saves == 0:
            raise Killed

    def forget(self) -> None:
        self._all.states.pop(self._search, None)
