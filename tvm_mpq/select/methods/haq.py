"""Searching plans as HAQ does (arXiv 1811.08886): an agent walks the operators and says the bits of each.

As in the paper: two continuous actions an operator, weights and then activations, each mapped to bits; a state of ten
numbers; a plan past a limit is cut, from the last operator backwards; the reward comes when the walk is over. Here is
all of that but the agent, which learns elsewhere and is given as a function (`tvm_mpq/agents/ddpg.py` has the paper's).
Ours: the reward is made of the table's objective, where the paper trains and runs the network, and the other cut.

    reward = -log(1 + d / u) / log(1 + s / u)

d is the plan's objective less that of the most bits, s the same of the fewest, u the objective of the most bits, held
within s / 1000 and s. It is 0 at most bits and -1 at fewest. Losses of plans differ by orders of magnitude: without the
logarithm all good ones get nearly the same. Where d is below 0, the reward is that of -d with the other sign.

A plan that the cut does not bring within the limits gets -1 - excess (at most -2), less than any that it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.select.methods.completion import ChoiceIndices, Completed
from tvm_mpq.select.methods.effort import TracePoint
from tvm_mpq.select.methods.greedy import Greedy
from tvm_mpq.select.methods.offered_bits import OfferedBits, meant
from tvm_mpq.select.methods.search import Search
from tvm_mpq.select.methods.starts import ends_held
from tvm_mpq.select.problem import Operator

EPISODES = 600
"""Walks, as many as the authors' code makes."""

State = tuple[float, ...]
"""In [0, 1] each: index, input and output channels, kernel, stride, size of the input map, number of weights, whether
depthwise, whether the next action is for weights, the last action."""

STATE_SIZE = 10

Layers = Mapping[int, OfferedBits]
"""Operators that have a choice, by index, in the network's order."""

Cut = Callable[[Search, Completed, Layers], Completed | None]
"""Brings a plan within the limits by taking bits away; None where that does not get there."""

_NEVER = -2.0
_TRACE_POINTS = 100


def from_the_last(search: Search, plan: Completed, layers: Layers) -> Completed | None:
    """The paper's: one activation bit and one weight bit less of each operator, the last one first, again and again.

    Whether a step saves anything is not asked.
    """
    while search.excess(plan) > 0:
        before = plan.labels
        for i in reversed(list(layers)):
            for fewer in (layers[i].fewer_activations, layers[i].fewer_weights):
                c = fewer(plan.labels[i])
                found = None if c is None else search.moved(plan, {i: c})
                if found is not None:
                    plan = found
                if search.excess(plan) == 0:
                    return plan
        if plan.labels == before:
            return None
    return plan


def cheapest(search: Search, plan: Completed, layers: Layers) -> Completed | None:
    """Ours: the step to fewer bits that adds least to the objective for what it takes off the excess, until within."""

    def fewer(plan: Completed) -> Iterator[Completed]:
        for i, offered in layers.items():
            for c in offered.fewer(plan.labels[i]):
                if (found := search.moved(plan, {i: c})) is not None:
                    yield found

    return Greedy.down(search, plan, fewer)


LAST, CHEAPEST = "last", "cheapest"

CUTS: Mapping[str, Cut] = {LAST: from_the_last, CHEAPEST: cheapest}


class LayerWalk:
    """What the agent walks over: `begin`, then `act` as often as there are `steps`, `episodes` times.

    layers: those that have a choice. held: what the others run at. Raises SpentError when the search is over.
    """

    def __init__(self, search: Search, layers: Layers, held: ChoiceIndices, cut: Cut, episodes: int) -> None:
        self.episodes = episodes
        self._search, self._layers, self._cut = search, layers, cut
        self._order = list(layers)
        self._labels = list(held)
        self._facts = _normalised([_facts(i, search.completion.problem.operator(n)) for i, n in self._named()])
        self._begun = self._uncut = 0
        self._taken, self._last_action, self._weight_bits = 0, 1.0, 0
        ends = [self._value(held, {i: bits.most for i, bits in layers.items()})]
        ends.append(self._value(held, {i: bits.fewest for i, bits in layers.items()}))
        self._original = ends[0]
        self._span = abs(ends[0] - ends[1]) or 1.0
        self._unit = min(self._span, max(abs(ends[0]), self._span / 1000))

    @property
    def steps(self) -> int:
        """Actions of one walk."""
        return 2 * len(self._order)

    def keep(self, agent: str) -> None:
        """Save where the walks stand, between two of them: when the next one has begun. agent: the learner's state."""
        self._search.keep({"begun": self._begun - 1, "uncut": self._uncut, "agent": agent})

    def recalled(self) -> str | None:
        """Go back to where the walks were saved, and return the agent's state; None where nothing was saved."""
        state = self._search.recalled()
        if state is None:
            return None
        self._begun, self._uncut = state["begun"], state["uncut"]
        return str(state["agent"])

    def begin(self) -> State:
        """The first operator's state."""
        self._search.told = (self._begun, self.episodes)
        self._search.look_up()
        self._begun += 1
        self._taken, self._last_action = 0, 1.0
        return self._state()

    def act(self, action: float) -> tuple[State, float | None]:
        """Take an action in [0, 1]; the next state, and after the last action the reward."""
        i = self._order[self._taken // 2]
        offered = self._layers[i]
        if self._taken % 2 == 0:
            self._weight_bits = meant(action, offered.weights)
        else:
            activation_bits = meant(action, offered.activations(self._weight_bits))
            self._labels[i] = offered.index(self._weight_bits, activation_bits)
        self._taken, self._last_action = self._taken + 1, action
        return self._state(), self._reward() if self._taken == self.steps else None

    def _state(self) -> State:
        layer = min(self._taken // 2, len(self._order) - 1)
        return (*self._facts[layer], float(self._taken % 2 == 0), self._last_action)

    def _reward(self) -> float:
        search = self._search
        plan = search.start(tuple(self._labels))
        if plan is None:
            return _NEVER
        excess = search.excess(plan)
        self._uncut += excess == 0
        kept = plan if excess == 0 else self._cut(search, plan, self._layers)
        reward = max(_NEVER, -1 - excess) if kept is None else max(-1.0, self._rated(search.value(kept)))
        if self._begun % max(1, self.episodes // _TRACE_POINTS) == 0:
            search.trace.append(TracePoint(search.evaluations, reward, search.best, self._uncut / self._begun))
        return reward

    def _rated(self, value: float) -> float:
        apart = value - self._original
        size = math.log1p(abs(apart) / self._unit) / math.log1p(self._span / self._unit)
        return -math.copysign(size, apart)

    def _value(self, held: ChoiceIndices, chosen: Mapping[int, int]) -> float:
        plan = self._search.start(tuple(chosen.get(i, c) for i, c in enumerate(held)))
        return 0.0 if plan is None else self._search.value(plan)

    def _named(self) -> Iterator[tuple[int, str]]:
        return ((i, self._search.completion.names[i]) for i in self._order)


Learn = Callable[[LayerWalk, int], None]
"""An agent: it walks `episodes` times and learns meanwhile, the last time as it has learned to. The number seeds it."""


class Haq:
    """Implements `Method`. learn: the agent. pin_ends: first and last operator stay at 8 bits, as in the authors' code.

    cut: a name of `CUTS`. Raises InvalidValueError for another name.
    """

    name: ClassVar[str] = "haq"
    evaluations: ClassVar[int] = 5_000_000  # the walks end it

    def __init__(self, learn: Learn, *, cut: str = LAST, pin_ends: bool = False, episodes: int = EPISODES) -> None:
        self._learn, self._cut, self._pin_ends, self._episodes = learn, checked_cut(cut), pin_ends, episodes
        self.settings = cut, pin_ends, episodes

    def explore(self, search: Search) -> None:
        offered = [OfferedBits(choices) for choices in search.completion.choices]
        held = tuple(bits.most for bits in offered)
        ends = {0, len(offered) - 1} if self._pin_ends else set()
        if self._pin_ends:
            held = ends_held(search.completion, held)
        layers = {i: bits for i, bits in enumerate(offered) if len(bits) > 1 and i not in ends}
        if not layers:
            search.start(held)
            return
        walk = LayerWalk(search, layers, held, CUTS[self._cut], self._episodes)
        self._learn(walk, search.rng.randrange(2**31))


def checked_cut(name: str) -> str:
    """The name of a cut. Raises InvalidValueError for one that is not known."""
    if name not in CUTS:
        raise InvalidValueError(f"cut must be one of {', '.join(CUTS)} (got {name!r})")
    return name


def _facts(index: int, operator: Operator) -> list[float]:
    """The part of the state that no action changes; zeros where the shape is not known."""
    shape = operator.workload
    if not isinstance(shape, Conv2dWorkload):
        return [float(index), *[0.0] * (STATE_SIZE - 3)]
    channels = shape.in_channels, shape.out_channels
    size = shape.in_height * shape.in_width
    numbers = *channels, shape.kernel[0], shape.stride[0], size, shape.weight_count, shape.is_depthwise
    return [float(index), *map(float, numbers)]


def _normalised(rows: list[list[float]]) -> list[list[float]]:
    """Every column to [0, 1]; a constant one to 0."""
    columns = []
    for column in zip(*rows, strict=True):
        least, most = min(column), max(column)
        columns.append([(x - least) / ((most - least) or 1.0) for x in column])
    return [list(row) for row in zip(*columns, strict=True)]
