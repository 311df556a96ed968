"""Plans completed: given the choices of operators with weights, the fastest tensor formats and choices of the others.

Once operators with weights are decided, what a tensor costs depends on the format it is emitted in and on what readers
do that have no weights or are tied to it. Such readers join tensors into groups, most of one tensor, and a group is
solved exactly by elimination. Its result depends on the few decided operators around it and is remembered, so that a
plan beside a known one is priced in microseconds. A group too wide for that (a tensor read by ten concatenations) is
completed tensor by tensor until nothing improves: then its latency is one that exists, not always the least.

In one file: groups, their elimination and what is remembered of them are one algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.schema import FLOAT_BITS
from tvm_mpq.select.methods.elimination import Table, TooWideError, check_width, least
from tvm_mpq.select.pricing import copies_for, demand
from tvm_mpq.select.problem import INTEGER_CLASS, Choice, Operator, Problem, Tensor, emitted_class, is_integer
from tvm_mpq.select.uniforms import weighted

ChoiceIndices = tuple[int, ...]
"""For every operator with weights, in the network's order, the index of its choice."""

_State = tuple[Choice | None, int]  # what a tensor's producer runs at (None: an input), and the format it emits

_LACKING_US = 1e-9  # a bit that a tensor lacks to 8: of formats that cost the same, the one with more bits
_NEVER_US = 1e15  # for what cannot be built, where steps towards what can must count


@dataclass(frozen=True)
class Part:
    """A group of tensors, completed. choices: of its producers without weights.

    figures: microseconds of its producers and conversions, calls included; loss, bytes and millijoule (NaN = unknown)
    of its producers.
    """

    figures: tuple[float, float, float, float]
    choices: Mapping[str, str]
    formats: Mapping[str, int]


@dataclass(frozen=True)
class Completed:
    """A plan with its totals. columns: the groups' latencies, losses, sizes and energies."""

    labels: ChoiceIndices
    columns: tuple[list[float], ...]
    latency_us: float
    loss: float
    size_bytes: int
    energy_mj: float | None


@dataclass(frozen=True)
class _Group:
    """Tensors that are completed together. links: tensor -> outputs of readers that are not decided, or tied to it.

    makers, readers: indices of the decided operators that write, and that only read, its tensors.
    """

    tensors: tuple[str, ...]
    links: Mapping[str, tuple[Operator, ...]]
    makers: tuple[int, ...]
    readers: tuple[int, ...]


class Completion:
    """Completes and prices plans of one problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.names = tuple(weighted(problem))
        """Operators with weights, in the network's order."""
        self.choices = tuple(problem.operator(name).choices for name in self.names)
        """Their choices, which `ChoiceIndices` count."""
        self._index = {name: i for i, name in enumerate(self.names)}
        self._groups = tuple(self._make_groups())
        self._known: list[dict[tuple[object, ...], Part | None]] = [{} for _ in self._groups]
        self._around: list[list[int]] = [[] for _ in self.names]
        for g, group in enumerate(self._groups):
            for i in {*group.makers, *group.readers}:
                self._around[i].append(g)

    def complete(self, labels: ChoiceIndices) -> Completed | None:
        """None when no formats fit."""
        figures = []
        for g in range(len(self._groups)):
            part = self._part(g, labels)
            if part is None:
                return None
            figures.append(part.figures)
        return self._totals(labels, tuple([row[q] for row in figures] for q in range(4)))

    def moved(self, plan: Completed, changes: Mapping[int, int]) -> Completed | None:
        """The plan with other choices (operator's index -> choice's index); None when no formats fit."""
        changed = list(plan.labels)
        touched = set()
        for i, c in changes.items():
            changed[i] = c
            touched.update(self._around[i])
        labels = tuple(changed)
        columns = tuple(column.copy() for column in plan.columns)
        for g in touched:
            part = self._part(g, labels)
            if part is None:
                return None
            for column, figure in zip(columns, part.figures, strict=True):
                column[g] = figure
        return self._totals(labels, columns)

    def assignment(self, plan: Completed) -> tuple[dict[str, str], dict[str, int]]:
        """(label of each operator, emitted format of each tensor), as `pricing.price` takes them."""
        labels = {name: self.choices[i][plan.labels[i]].label for i, name in enumerate(self.names)}
        formats: dict[str, int] = {}
        for g in range(len(self._groups)):
            part = self._part(g, plan.labels)
            assert part is not None, "it was completed"
            labels.update(part.choices)
            formats.update(part.formats)
        return labels, formats

    def labels_of(self, choices: Mapping[str, str]) -> ChoiceIndices:
        """The labels of a plan given by name. Raises InvalidValueError for a label that is not offered."""
        return tuple(c.index(self.problem.operator(n).choice(choices[n])) for n, c in self._offers())

    def _offers(self) -> Iterator[tuple[str, tuple[Choice, ...]]]:
        return zip(self.names, self.choices, strict=True)

    def _totals(self, labels: ChoiceIndices, columns: tuple[list[float], ...]) -> Completed:
        latency, loss, size, energy = map(math.fsum, columns)
        known = None if math.isnan(energy) else energy
        return Completed(labels, columns, self.problem.fixed_us + latency, loss, round(size), known)

    def _part(self, g: int, labels: ChoiceIndices) -> Part | None:
        group, known = self._groups[g], self._known[g]
        key = (
            *(labels[i] for i in group.makers),
            *(self.choices[i][labels[i]].in_bits for i in group.readers),
        )
        if key not in known:
            chosen = {self.names[i]: self.choices[i][labels[i]] for i in (*group.makers, *group.readers)}
            known[key] = _solve(self.problem, group, chosen)
        return known[key]

    def _make_groups(self) -> Iterator[_Group]:
        problem = self.problem
        links = {
            tensor.name: tuple(
                reader
                for reader in problem.consumers[tensor.name]
                if reader.name not in self._index or problem.tensor_by_name[reader.output].tie == tensor.name
            )
            for tensor in problem.tensors
        }
        root = {name: name for name in links}

        def find(name: str) -> str:
            while root[name] != name:
                name = root[name]
            return name

        for name, readers in links.items():
            for reader in readers:
                root[find(reader.output)] = find(name)
        groups: dict[str, list[str]] = {}
        for name in links:
            groups.setdefault(find(name), []).append(name)
        for tensors in groups.values():
            makers = {problem.producers[t].name for t in tensors if t in problem.producers} & self._index.keys()
            users = {o.name for t in tensors for o in problem.consumers[t]} & self._index.keys()
            yield _Group(
                tuple(tensors),
                {t: links[t] for t in tensors},
                tuple(sorted(self._index[n] for n in makers)),
                tuple(sorted(self._index[n] for n in users - makers)),
            )


def _solve(problem: Problem, group: _Group, chosen: Mapping[str, Choice]) -> Part | None:
    """The group completed. chosen: choices of the decided operators around it."""
    costs = _Costs(problem, group, chosen)
    if not all(costs.states.values()):
        return None
    sizes = {name: len(states) for name, states in costs.states.items()}
    try:
        value, found = least([costs.table(name, sizes) for name in group.tensors], sizes)
    except TooWideError:
        value, found = _one_by_one(costs)
    if not math.isfinite(value):
        return None
    states = {name: costs.states[name][i] for name, i in found.items()}
    made = {problem.producers[t].name: choice for t, (choice, _) in states.items() if choice is not None}
    return Part(
        (
            math.fsum(costs.us(name, states) for name in group.tensors),
            math.fsum(c.loss for c in made.values()),
            sum(c.size_bytes for c in made.values()),
            math.fsum(math.nan if c.energy_mj is None else c.energy_mj for c in made.values()),
        ),
        {name: c.label for name, c in made.items() if name not in chosen},
        {name: bits for name, (_, bits) in states.items()},
    )


class _Costs:
    """What each tensor of a group costs, by its state and those of the outputs it is linked to."""

    def __init__(self, problem: Problem, group: _Group, chosen: Mapping[str, Choice]) -> None:
        self._problem, self.links = problem, group.links
        self.states = {name: _states(problem, problem.tensor_by_name[name], chosen) for name in group.tensors}
        self._demanded = {
            name: frozenset().union(
                *(
                    demand(problem, reader, chosen[reader.name], FLOAT_BITS, name)
                    for reader in problem.consumers[name]
                    if reader not in group.links[name]
                )
            )
            for name in group.tensors
        }

    def us(self, name: str, states: Mapping[str, _State]) -> float:
        """Microseconds of a tensor's producer and conversions; infinite where a conversion does not exist."""
        problem, tensor = self._problem, self._problem.tensor_by_name[name]
        choice, bits = states[name]
        demanded = self._demanded[name]
        for reader in self.links[name]:
            read_at, out_bits = states[reader.output]
            assert read_at is not None, "a reader's output has a producer"
            demanded = demanded | demand(problem, reader, read_at, out_bits, name)
        try:
            copies = copies_for(tensor, bits, demanded)
        except InvalidValueError:
            return math.inf
        kernel = 0.0 if choice is None else choice.latency_us[emitted_class(bits)] + problem.call_us
        return kernel + sum(tensor.convert_us[bits, to] + problem.call_us for to in copies)

    def weighed(self, name: str, states: Mapping[str, _State]) -> float:
        """The same, a little more for fewer bits: what is minimised."""
        bits = states[name][1]
        return self.us(name, states) + (_LACKING_US * (INTEGER_CLASS - bits) if is_integer(bits) else 0.0)

    def table(self, name: str, sizes: Mapping[str, int]) -> Table:
        scope = tuple(dict.fromkeys((name, *(reader.output for reader in self.links[name]))))
        check_width(scope, sizes)
        values = np.empty([sizes[n] for n in scope])
        for index in np.ndindex(*values.shape):
            values[index] = self.weighed(name, {n: self.states[n][i] for n, i in zip(scope, index, strict=True)})
        return scope, values


def _states(problem: Problem, tensor: Tensor, chosen: Mapping[str, Choice]) -> list[_State]:
    """What a tensor's producer can run at and emit."""
    possible = [f for f in tensor.formats if f not in tensor.copies_only and tensor.fixed in (None, f)]
    producer = problem.producers.get(tensor.name)
    if producer is None:
        return [(None, bits) for bits in possible]
    choices = (chosen[producer.name],) if producer.name in chosen else producer.choices
    return [(c, bits) for c in choices for bits in possible if _emits(tensor, producer, c, bits)]


def _emits(tensor: Tensor, producer: Operator, choice: Choice, bits: int) -> bool:
    if emitted_class(bits) not in choice.latency_us:
        return False
    if tensor.tie is None or not is_integer(choice.in_bits) or not is_integer(bits):
        return True
    exact = any(e for name, e in zip(producer.inputs, producer.exact_inputs, strict=True) if name == tensor.tie)
    return not exact or choice.in_bits == bits


def _one_by_one(costs: _Costs) -> tuple[float, dict[str, int]]:
    """A local minimum, from all floats and from all integers: each tensor in turn takes its best state."""
    affected: dict[str, list[str]] = {name: [name] for name in costs.states}
    for name, readers in costs.links.items():
        for reader in readers:
            affected[reader.output].append(name)
    best: tuple[float, dict[str, int]] = (math.inf, {})
    for first in (False, True):
        found = {
            name: next((i for i, (_, bits) in enumerate(states) if is_integer(bits) == first), 0)
            for name, states in costs.states.items()
        }

        def us(names: list[str], found: dict[str, int] = found) -> float:
            states = {name: costs.states[name][i] for name, i in found.items()}
            return sum(min(costs.weighed(name, states), _NEVER_US) for name in names)

        improved = True
        while improved:
            improved = False
            for name, near in affected.items():
                old, now = found[name], us(near)
                for i in range(len(costs.states[name])):
                    kept = found[name]
                    found[name] = i
                    value = us(near)
                    if value < now:
                        now = value
                    else:
                        found[name] = kept
                improved |= found[name] != old
        best = min(best, (us(list(costs.states)), found), key=lambda b: b[0])
    return (math.inf, {}) if best[0] >= _NEVER_US else best
