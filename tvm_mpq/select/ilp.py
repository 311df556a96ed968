"""The best assignment within limits: exact, lexicographic, with bound and gap.

`solve` minimises one quantity, then among equals the next, and last keeps as many bits in every tensor as cost nothing.
`k_best` goes on by no-good cuts; `least` is what an infeasible budget is explained with.

In one file: variables, constraints and what is read back of them belong to one program.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from tvm_mpq.errors import InfeasibleError, InvalidValueError
from tvm_mpq.select.explain import explain
from tvm_mpq.select.model import BITS, LIMIT_TOLERANCE, OBJECTIVE_RESOLUTION, Model
from tvm_mpq.select.pricing import Conversion, Cost, price, total
from tvm_mpq.select.problem import INTEGER_CLASS, QUANTITIES, Limits, Problem, is_integer
from tvm_mpq.select.solver import INFEASIBLE, OPTIMAL, TIME_LIMIT, run, solver_name

__all__ = ["Limits", "Solution", "k_best", "solve"]

THEN = {"latency": ("loss",), "loss": ("latency",), "size": ("loss", "latency"), "energy": ("loss", "latency")}
"""What decides between equals, by objective."""

DEFAULT_TIME_LIMIT_SEC = 60.0

_RESCALE_BELOW = 1e-3  # an objective this small beside its largest coefficient: the solver sees under 7 digits of it
_MAX_RESCALES = 20


def relative_gap(objective: float, bound: float, noise: float = 0.0) -> float:
    """What the objective is above the bound, as a share of the larger magnitude; 0 where that is not above `noise`."""
    apart = objective - bound
    return apart / max(abs(objective), abs(bound)) if apart > noise else 0.0


@dataclass(frozen=True)
class Solution:
    """An assignment, its price, and how well it is proven.

    choices: operator -> label. formats: tensor -> bits it is emitted in. conversions: (tensor, from, to). reads:
    operator -> bits in which each input is read. goal: the quantity minimised; objective its value, bound what no
    assignment can go below, gap = (objective - bound) / the larger magnitude. status: `optimal`, `time_limit` when
    any step was cut short, or `heuristic` of a method that proves nothing but its plan. seconds: as the solver reports
    them, all steps. evaluations: plans that were priced on the way, 0 of the solver.
    """

    choices: dict[str, str]
    formats: dict[str, int]
    conversions: tuple[Conversion, ...]
    reads: dict[str, tuple[int, ...]]
    latency_us: float
    size_bytes: int
    loss: float
    energy_mj: float | None
    goal: str
    objective: float
    bound: float
    gap: float
    status: str
    seconds: float
    solver: str
    evaluations: int = 0

    @classmethod
    def priced(
        cls,
        choices: dict[str, str],
        formats: dict[str, int],
        cost: Cost,
        goal: str,
        *,
        bound: float,
        noise: float = 0.0,
        status: str,
        seconds: float,
        solver: str,
        evaluations: int = 0,
    ) -> Solution:
        """An assignment and its cost. bound: may be above the objective, which then is its own bound. noise: as of
        `relative_gap`."""
        objective = cost.quantity(goal)
        bound = min(bound, objective)
        return cls(
            choices=choices,
            formats=formats,
            conversions=cost.conversions,
            reads=cost.reads,
            latency_us=cost.latency_us,
            size_bytes=cost.size_bytes,
            loss=cost.loss,
            energy_mj=cost.energy_mj,
            goal=goal,
            objective=objective,
            bound=bound,
            gap=relative_gap(objective, bound, noise),
            status=status,
            seconds=seconds,
            solver=solver,
            evaluations=evaluations,
        )

    def quantity(self, name: str) -> float:
        """The total of `loss`, `size`, `energy` (NaN where some choice's is unknown) or `latency`."""
        return total(self, name)


@dataclass(frozen=True)
class Minimum:
    """The outcome of minimising one quantity.

    labels is empty when time ran out before any assignment was found. noise: differences of value that mean nothing.
    """

    labels: dict[str, str]
    formats: dict[str, int]
    cost: Cost | None
    value: float
    bound: float
    status: str
    seconds: float
    noise: float = 0.0


def solve(
    problem: Problem,
    limits: Limits | None = None,
    objective: str = "latency",
    forbid: Sequence[Solution | Mapping[str, str]] = (),
    time_limit_sec: float = DEFAULT_TIME_LIMIT_SEC,
    *,
    then: Sequence[str] | None = None,
) -> Solution:
    """The assignment with the least `objective` within `limits`.

    Parameters
    ----------
    objective : {"latency", "loss", "size", "energy"}
        Minimised first; `then` (default `THEN[objective]`) decides between equals.
    forbid : solutions or {operator: label}
        No-good cuts: the answer differs from each in at least one of the operators it names.
    time_limit_sec : float
        For all steps together, on the solver's clock.

    Raises
    ------
    InfeasibleError
        If nothing is within the limits; the text names the limit that binds and its least feasible value.
    InvalidValueError
        For unknown names, or if time ran out before any assignment was found.
    """
    limits = limits or Limits()
    cuts = [dict(f.choices if isinstance(f, Solution) else f) for f in forbid]
    order = (objective, *(THEN.get(objective, ()) if then is None else then))
    _check_arguments(order, time_limit_sec)
    labels: Mapping[str, str] = {}
    first = _minimise(problem, limits, objective, cuts, labels, time_limit_sec)
    if first is None:

        def least(quantity: str, kept: Limits, with_cuts: bool) -> tuple[float, float] | None:
            step = _minimise(problem, kept, quantity, cuts if with_cuts else [], labels, time_limit_sec)
            return None if step is None else (step.value, step.bound)

        raise explain(limits, len(cuts), least)
    if first.cost is None:
        raise InvalidValueError(f"time_limit_sec must be long enough to find any solution (got {time_limit_sec:g})")
    best, seconds, status = first, first.seconds, first.status
    within = limits
    previous = objective
    for quantity in (*order[1:], BITS):
        if quantity == BITS:
            labels = best.labels
            if not _has_spare_bits(problem, best.formats):
                break
            within = within.tightened("latency", _total(best, "latency"))
        else:
            within = within.tightened(previous, _total(best, previous))
        if seconds >= time_limit_sec:
            status = TIME_LIMIT
            break
        step = _minimise(problem, within, quantity, cuts, labels, time_limit_sec - seconds)
        if step is not None:  # None would be rounding: `best` itself is within these limits
            seconds += step.seconds
            status = status if step.status == OPTIMAL else step.status
            best = step if step.cost is not None and step.value <= _value(problem, best, quantity) else best
        previous = quantity
    assert best.cost is not None, "refused above when nothing was found"
    return Solution.priced(
        best.labels,
        best.formats,
        best.cost,
        objective,
        bound=first.bound,
        noise=first.noise,
        status=status,
        seconds=seconds,
        solver=solver_name(),
    )


def k_best(
    problem: Problem,
    limits: Limits | None = None,
    count: int = 5,
    objective: str = "latency",
    among: Collection[str] | None = None,
    time_limit_sec: float = DEFAULT_TIME_LIMIT_SEC,
) -> list[Solution]:
    """Up to `count` solutions, best first, that differ in the choices of the operators `among` (default: all).

    Fewer when there are no more. time_limit_sec is for each. Raises as `solve` does when there is not even one.
    """
    found: list[Solution] = []
    cuts: list[Mapping[str, str]] = []
    while len(found) < count:
        try:
            solution = solve(problem, limits, objective, cuts, time_limit_sec)
        except InfeasibleError:
            if not found:
                raise
            break
        found.append(solution)
        cuts.append({o: label for o, label in solution.choices.items() if among is None or o in among})
    return found


def _minimise(
    problem: Problem,
    limits: Limits,
    quantity: str,
    cuts: Sequence[Mapping[str, str]],
    labels: Mapping[str, str],
    time_limit_sec: float,
) -> Minimum | None:
    """Minimise one quantity; None when nothing is within the limits.

    An objective that turns out tiny beside its largest coefficient is solved again without the parts that exceed the
    value attained, scaled to what is left: one absurd choice must not blur the sane ones.
    """
    best: Minimum | None = None
    seconds = 0.0
    for _ in range(_MAX_RESCALES):
        model = Model(problem)
        model.keep_labels(labels)
        for cut in cuts:
            model.forbid(cut)
        if not all(model.limit(q, value) for q, value in limits.active()):
            return None
        model.minimise(quantity, None if best is None else best.value)
        outcome = run(model.lp, max(time_limit_sec - seconds, 1e-3))
        seconds += outcome.seconds
        if outcome.status == INFEASIBLE:
            return best
        if not outcome.has_values:
            bound = model.constant if best is None else best.bound
            step = Minimum({}, {}, None, math.inf, bound, outcome.status, seconds)
            return step if best is None else _later(best, step)
        step = _step(problem, quantity, model, outcome.bound, outcome.status, seconds)
        best = step if best is None else _later(best, step)
        varying = step.value - model.constant
        exhausted = varying <= 1e-12 * max(abs(step.value), abs(model.constant))
        if exhausted or varying >= _RESCALE_BELOW * model.largest or step.status != OPTIMAL:
            break
    return best


def _step(problem: Problem, quantity: str, model: Model, bound: float, status: str, seconds: float) -> Minimum:
    labels, formats = model.assignment()
    cost = price(problem, labels, formats)
    value = _missing_bits(formats) if quantity == BITS else cost.quantity(quantity)
    proven = max(model.constant, model.constant + bound / model.scale)
    noise = OBJECTIVE_RESOLUTION / model.scale + LIMIT_TOLERANCE * max(abs(value), abs(model.constant))
    if status == OPTIMAL and value - proven <= noise:
        proven = value  # what the solver cannot tell apart is no gap
    return Minimum(labels, formats, cost, value, min(proven, value), status, seconds, noise)


def _later(best: Minimum, step: Minimum) -> Minimum:
    """The better of two steps on one quantity, with the later proof: it excludes only what is worse than `best`."""
    better = step if step.value < best.value else best
    bound = min(max(step.bound, best.bound), better.value)
    return replace(better, bound=bound, status=step.status, seconds=step.seconds, noise=min(step.noise, best.noise))


def _value(problem: Problem, step: Minimum, quantity: str) -> float:
    return _missing_bits(step.formats) if quantity == BITS else _total(step, quantity)


def _total(step: Minimum, quantity: str) -> float:
    assert step.cost is not None, "only steps with an assignment have totals"
    return step.cost.quantity(quantity)


def _missing_bits(formats: Mapping[str, int]) -> float:
    return float(sum(INTEGER_CLASS - bits for bits in formats.values() if is_integer(bits)))


def _has_spare_bits(problem: Problem, formats: Mapping[str, int]) -> bool:
    return any(is_integer(formats[t.name]) and formats[t.name] < max(t.integer_formats) for t in problem.tensors)


def _check_arguments(order: Sequence[str], time_limit_sec: float) -> None:
    for quantity in order:
        if quantity not in QUANTITIES:
            raise InvalidValueError(f"objective must be one of {', '.join(QUANTITIES)} (got {quantity!r})")
    if not time_limit_sec > 0:
        raise InvalidValueError(f"time_limit_sec must be above 0 (got {time_limit_sec:g})")
