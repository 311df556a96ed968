"""The integer program behind a Problem, as a PuLP model with numbers scaled for the solver.

Binary variables: `z` an operator's choice and the class it emits, `e` the format a tensor is emitted in, `y` a
conversion of a tensor. A conversion is the product "emitted in f AND wanted in g", linearised as y <= e[f] and
wanted[g] <= e[g] + sum y[., g], which is tighter than y >= e + wanted - 1.

All quantities are sums of non-negative parts once every operator's cheapest choice is moved into a constant. Whatever
alone exceeds a limit is switched off, and the rest of the row is scaled to the limit; so tables that span 18 orders of
magnitude reach the solver as numbers it can tell apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import pulp

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.schema import FLOAT_BITS
from tvm_mpq.select.problem import INTEGER_CLASS, Operator, Problem, Tensor, is_integer

LIMIT_TOLERANCE = 1e-9
"""A limit counts as kept within this share of it: the noise of summing floats, far below any measurement."""

LIMIT_SCALE = 1e3
"""What a limit is scaled to; the solver's row tolerance is 1e-9."""

OBJECTIVE_SCALE = 1e4
"""What the largest objective coefficient is scaled to."""

OBJECTIVE_RESOLUTION = 1e-6
"""What the solver tells apart, in scaled objectives."""

BITS = "bits"
"""A pseudo quantity: integer bits that emitted tensors lack to 8. Fewer bits at equal cost only lose accuracy."""

Term = tuple[pulp.LpVariable, float]


class Model:
    """One integer program; add labels, cuts and limits (in this order), then an objective, then solve `lp`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.lp = pulp.LpProblem("select", pulp.LpMinimize)
        self.z: dict[tuple[str, str, int], pulp.LpVariable] = {}
        self.e: dict[tuple[str, int], pulp.LpVariable] = {}
        self.y: dict[tuple[str, int, int], pulp.LpVariable] = {}
        self._of_choice: dict[tuple[str, str], list[pulp.LpVariable]] = defaultdict(list)
        self.scale = 1.0  # solver's objective per unit of the objective
        self.constant = 0.0  # part of the objective that the solver does not see
        self.largest = 0.0  # largest objective coefficient, unscaled
        for t, tensor in enumerate(problem.tensors):
            self._add_tensor(t, tensor)
        for o, operator in enumerate(problem.operators):
            self._add_operator(o, operator)
        for tensor in problem.tensors:
            if tensor.required is not None:
                self.lp += self._available(tensor, (tensor.required,)) >= 1

    def keep_labels(self, labels: Mapping[str, str]) -> None:
        """Fix the choice of every operator named. Raises InvalidValueError for unknown operators or labels."""
        for name, label in labels.items():
            operator = self.problem.operator(name)
            operator.choice(label)
            for choice in operator.choices:
                if choice.label != label:
                    _switch_off(self._of_choice[name, choice.label])

    def forbid(self, labels: Mapping[str, str]) -> None:
        """At least one of the operators named must differ. Raises InvalidValueError for unknown ones, or for none."""
        if not labels:
            raise InvalidValueError("a forbidden solution must name at least one operator (got none)")
        for name, label in labels.items():
            self.problem.operator(name).choice(label)
        self.lp += pulp.lpSum(v for pair in labels.items() for v in self._of_choice[pair]) <= len(labels) - 1

    def limit(self, quantity: str, value: float) -> bool:
        """Limit a quantity; False when even the cheapest choices exceed it, so that nothing is left to solve."""
        constant, terms = self._terms(quantity)
        room = value - constant + LIMIT_TOLERANCE * max(abs(value), abs(constant))
        if room < 0:
            return False
        _switch_off(v for v, cost in terms if cost > room)
        if room > 0:
            kept = [(v, cost / room * LIMIT_SCALE) for v, cost in terms if 0 < cost <= room]
            self.lp += _expression(kept) <= LIMIT_SCALE
        return True

    def minimise(self, quantity: str, at_most: float | None = None) -> None:
        """Set the objective. at_most: a value already attained, beyond which nothing is of interest."""
        self.constant, terms = self._terms(quantity)
        if at_most is not None:
            room = at_most - self.constant + LIMIT_TOLERANCE * max(abs(at_most), abs(self.constant))
            _switch_off(v for v, cost in terms if cost > room)
            terms = [(v, cost) for v, cost in terms if cost <= room]
        self.largest = max((cost for _, cost in terms), default=0.0)
        self.scale = OBJECTIVE_SCALE / self.largest if self.largest > 0 else 1.0
        self.lp.setObjective(_expression([(v, cost * self.scale) for v, cost in terms]))

    def assignment(self) -> tuple[dict[str, str], dict[str, int]]:
        """The solution found, as (label of each operator, emitted format of each tensor)."""
        labels: dict[str, str] = {}
        formats: dict[str, int] = {}
        for (name, label, _), variable in self.z.items():
            if variable.varValue > 0.5:
                labels[name] = label
        for (name, bits), variable in self.e.items():
            if variable.varValue > 0.5:
                formats[name] = bits
        return labels, formats

    def _binary(self, name: str) -> pulp.LpVariable:
        return self.lp.add_variable(name, cat=pulp.LpBinary)

    def _add_tensor(self, index: int, tensor: Tensor) -> None:
        for bits in tensor.formats:
            self.e[tensor.name, bits] = self._binary(f"e_{index}_{bits}")
            if tensor.fixed not in (None, bits) or bits in tensor.copies_only:
                _switch_off([self.e[tensor.name, bits]])
        self.lp += pulp.lpSum(self.e[tensor.name, f] for f in tensor.formats) == 1
        for source, to in tensor.convert_us:
            if tensor.fixed in (None, source) and source not in tensor.copies_only:
                self.y[tensor.name, source, to] = self._binary(f"y_{index}_{source}_{to}")
                self.lp += self.y[tensor.name, source, to] <= self.e[tensor.name, source]

    def _available(self, tensor: Tensor, formats: Iterable[int]) -> pulp.LpAffineExpression:
        """How many of `formats` the tensor is available in, emitted or converted."""
        wanted = set(formats)
        emitted = [self.e[tensor.name, f] for f in tensor.formats if f in wanted]
        ways = ((tensor.name, source, to) for source, to in tensor.convert_us if to in wanted)
        copies = [self.y[way] for way in ways if way in self.y]
        return pulp.lpSum(emitted + copies)

    def _add_operator(self, index: int, operator: Operator) -> None:
        output = self.problem.tensor_by_name[operator.output]
        emitted: dict[int, list[pulp.LpVariable]] = {FLOAT_BITS: [], INTEGER_CLASS: []}
        for c, choice in enumerate(operator.choices):
            for cls in choice.latency_us:
                variable = self._binary(f"z_{index}_{c}_{cls}")
                self.z[operator.name, choice.label, cls] = variable
                self._of_choice[operator.name, choice.label].append(variable)
                emitted[cls].append(variable)
        for cls, formats in ((FLOAT_BITS, (FLOAT_BITS,)), (INTEGER_CLASS, output.integer_formats)):
            stored = pulp.lpSum(self.e[output.name, f] for f in formats if f in output.formats)
            self.lp += pulp.lpSum(emitted[cls]) == stored
        for name, exact in zip(operator.inputs, operator.exact_inputs, strict=True):
            self._add_read(operator, self.problem.tensor_by_name[name], exact, output)

    def _add_read(self, operator: Operator, tensor: Tensor, exact: bool, output: Tensor) -> None:
        """Whoever reads a tensor needs it available in what the choice reads."""
        readers: dict[int, list[pulp.LpVariable]] = defaultdict(list)
        for choice in operator.choices:
            readers[choice.in_bits] += self._of_choice[operator.name, choice.label]
        from_float = readers.pop(FLOAT_BITS, [])
        integer = [v for group in readers.values() for v in group]
        if from_float:
            self.lp += pulp.lpSum(from_float) <= self._available(tensor, (FLOAT_BITS,))
        if exact:
            for bits, group in readers.items():
                self.lp += pulp.lpSum(group) <= self._available(tensor, (bits,))
        elif integer:
            self.lp += pulp.lpSum(integer) <= self._available(tensor, tensor.integer_formats)
        if output.tie == tensor.name:
            self._add_tie(operator, tensor, output, exact)

    def _add_tie(self, operator: Operator, tensor: Tensor, output: Tensor, exact: bool) -> None:
        """An integer output of an integer choice is stored in the very format that was read."""
        names = [(c.in_bits, self.z.get((operator.name, c.label, INTEGER_CLASS))) for c in operator.choices]
        free = [v for bits, v in names if v is not None and not is_integer(bits)]
        for stored in output.integer_formats:
            source = self._available(tensor, (stored,))
            self.lp += self.e[output.name, stored] <= source + pulp.lpSum(free)
        if exact:
            for bits, variable in names:
                if variable is not None and is_integer(bits):
                    allowed = [self.e[output.name, bits]] if bits in output.formats else []
                    self.lp += variable <= pulp.lpSum(allowed)

    def _terms(self, quantity: str) -> tuple[float, list[Term]]:
        """A quantity as constant + non-negative parts of the variables that are not switched off."""
        problem = self.problem
        problem.require_known(quantity)
        if quantity == BITS:
            return 0.0, [(v, float(INTEGER_CLASS - f)) for (_, f), v in self.e.items() if is_integer(f)]
        constant = problem.fixed_us if quantity == "latency" else 0.0
        terms: list[Term] = []
        for operator in problem.operators:
            costs = _operator_terms(operator, quantity, self.z, problem.call_us)
            live = [cost for v, cost in costs if v.upBound > 0] or [cost for _, cost in costs]
            constant += min(live)
            terms += [(v, cost - min(live)) for v, cost in costs if v.upBound > 0]
        if quantity == "latency":
            for (name, source, to), v in self.y.items():
                terms.append((v, problem.tensor_by_name[name].convert_us[source, to] + problem.call_us))
        return constant, [(v, cost) for v, cost in terms if v.upBound > 0]


def _operator_terms(
    operator: Operator, quantity: str, z: Mapping[tuple[str, str, int], pulp.LpVariable], call_us: float
) -> list[Term]:
    terms: list[Term] = []
    for choice in operator.choices:
        for cls, latency in choice.latency_us.items():
            values = {"latency": latency + call_us, "size": choice.size_bytes, "loss": choice.loss}
            value = choice.energy_mj if quantity == "energy" else values[quantity]
            terms.append((z[operator.name, choice.label, cls], float(value or 0.0)))
    return terms


def _switch_off(variables: Iterable[pulp.LpVariable]) -> None:
    for variable in variables:
        variable.upBound = 0


def _expression(terms: list[Term]) -> pulp.LpAffineExpression:
    return pulp.LpAffineExpression(terms)
