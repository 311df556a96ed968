"""Sampling plans as AMED does (arXiv 2205.15437): a Markov chain over all operators' bits, Metropolis-Hastings.

As in the paper: the allocation is the state of one multivariate chain; a proposal moves few operators; a score that
joins accuracy and latency accepts it; the penalty for what is past the threshold grows; models above the allowed size
are filtered out before they are scored; first and last operator may be held at 8 bits. Ours: the formulas of score and
schedule below, and the judge. The paper fine-tunes and runs networks, here the tables of latency and loss are asked.

    score = objective / scale + penalty * excess        acceptance = min(1, exp((old - new) / temperature))

`excess` is the sum of what is above the limits, in shares of them; `scale` the median step that single moves make from
the start, so that objectives of any size meet the same temperatures. Proposals are symmetric: at one temperature and
penalty the chain samples exp(-score / temperature).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from typing import ClassVar

from tvm_mpq.select.methods.completion import Completed
from tvm_mpq.select.methods.effort import TracePoint
from tvm_mpq.select.methods.search import Search
from tvm_mpq.select.methods.starts import alone, ends_held, uniforms
from tvm_mpq.select.uniforms import ENDS

TEMPERATURES = (1.0, 1e-3)
"""First and last, in units of the scale; between them they fall geometrically."""

PENALTIES = (10.0, 1e4)
"""First and last, for an excess of 1 (of 100 %): in units of the scale, and at last in units of the largest single
step, where few operators lose a thousand times what the others do and the limits ask for just these."""

MOVED = (0.5, 0.3, 0.2)
"""Probabilities of moving 1, 2 and 3 operators."""

TRACE_POINTS = 100

SAVED_EVERY = 10
"""Points of the trace between two saved states."""

_PROBES = 64
_DRAWN = 1000  # random plans to begin with, at most, where no uniform one can be built


class Amed:
    """Implements `Method`. pin_ends: first and last operator stay at 8 bits."""

    name: ClassVar[str] = "amed"
    evaluations: ClassVar[int] = 40_000

    def __init__(
        self,
        *,
        pin_ends: bool = False,
        temperatures: tuple[float, float] = TEMPERATURES,
        penalties: tuple[float, float] = PENALTIES,
    ) -> None:
        self._pin_ends, self._temperatures, self._penalties = pin_ends, temperatures, penalties
        self.settings = pin_ends, temperatures, penalties

    def explore(self, search: Search) -> None:
        state = search.recalled()
        plan = self._start(search) if state is None else search.completion.complete(tuple(state["plan"]))
        if plan is None or not self.movable(search):
            return
        scale, widest = self._scale(search, plan) if state is None else (state["scale"], state["widest"])
        done, accepted = (0, 0) if state is None else (state["steps"], state["accepted"])
        every = max(1, search.most // TRACE_POINTS)
        chain = self.chain(search, plan, scale, widest, accepted)
        for steps, (plan, score, accepted) in enumerate(chain, done + 1):
            if steps % every == 0:
                point = TracePoint(search.evaluations, score, search.best, accepted / steps)
                search.trace.append(point)
            if steps % (SAVED_EVERY * every) == 0:
                here = {"plan": plan.labels, "steps": steps, "accepted": accepted}
                search.keep({**here, "scale": scale, "widest": widest})

    def chain(
        self, search: Search, plan: Completed, scale: float, widest: float = 1.0, accepted: int = 0
    ) -> Iterator[tuple[Completed, float, int]]:
        """The chain: (state, its score, proposals accepted so far) after each step.

        widest: the largest single step, in units of `scale`. accepted: before the first step.
        """
        movable, rng = self.movable(search), search.rng
        penalties = self._penalties[0], self._penalties[1] * widest
        while True:
            temperature = _between(self._temperatures, search.done)
            penalty = _between(penalties, search.done)
            found = search.moved(plan, self._proposal(search, plan, movable))
            score = _score(search, plan, scale, penalty)
            if found is not None and found.size_bytes <= max(plan.size_bytes, self._allowed_bytes(search)):
                worse = _score(search, found, scale, penalty) - score
                if worse <= 0 or rng.random() < math.exp(-worse / temperature):
                    plan, score, accepted = found, score + worse, accepted + 1
            yield plan, score, accepted

    def movable(self, search: Search) -> list[int]:
        """Indices of the operators that have a choice."""
        choices = search.completion.choices
        ends = {0, len(choices) - 1} if self._pin_ends else set()
        return [i for i, c in enumerate(choices) if len(c) > 1 and i not in ends]

    @staticmethod
    def _proposal(search: Search, plan: Completed, movable: list[int]) -> dict[int, int]:
        """A few operators, neighbours half of the time, each with another of its choices; as likely as the way back."""
        rng = search.rng
        count = min(len(movable), 1 + rng.choices(range(len(MOVED)), MOVED)[0])
        if rng.random() < 0.5:
            first = rng.randrange(len(movable) - count + 1)
            moved = movable[first : first + count]
        else:
            moved = rng.sample(movable, count)
        changes = {}
        for i in moved:
            other = rng.randrange(len(search.completion.choices[i]) - 1)
            changes[i] = other + (other >= plan.labels[i])
        return changes

    def _start(self, search: Search) -> Completed | None:
        """Uniform 8 bit as in the paper, if it is small enough; else the uniform or other plan nearest to it."""
        completion, rng = search.completion, search.rng
        first = [*uniforms(completion), alone(search)]
        drawn = (tuple(rng.randrange(len(c)) for c in completion.choices) for _ in range(_DRAWN))
        plans: list[Completed] = []
        for labels in itertools.chain(first, drawn):
            if len(plans) > 0 and search.evaluations >= len(first):
                break
            plan = search.start(ends_held(completion, labels) if self._pin_ends else labels)
            plans += [] if plan is None else [plan]

        def key(plan: Completed) -> tuple[float, int]:
            over = max(0.0, plan.size_bytes - self._allowed_bytes(search))
            return over, sum(completion.choices[i][c].label != ENDS[0] for i, c in enumerate(plan.labels))

        return min(plans, key=key, default=None)

    @staticmethod
    def _allowed_bytes(search: Search) -> float:
        """The hard filter: no proposal larger than this, or than the state where that is larger, is scored."""
        return math.inf if search.limits.size_bytes is None else search.limits.size_bytes

    def _scale(self, search: Search, plan: Completed) -> tuple[float, float]:
        """The median step that single moves make from here, and the largest in units of it."""
        movable, steps = self.movable(search), []
        for _ in range(_PROBES):
            i = search.rng.choice(movable)
            found = search.moved(plan, {i: search.rng.randrange(len(search.completion.choices[i]))})
            if found is not None:
                steps.append(abs(search.value(found) - search.value(plan)))
        steps = [s for s in steps if s > 0] or [1.0]
        scale = statistics.median(steps)
        return scale, max(steps) / scale


def _score(search: Search, plan: Completed, scale: float, penalty: float) -> float:
    return search.value(plan) / scale + penalty * search.excess(plan)


def _between(ends: tuple[float, float], share: float) -> float:
    first, last = ends
    return float(first * (last / first) ** share)
