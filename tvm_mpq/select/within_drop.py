"""The fastest plan that keeps an accuracy drop: uniform plans first, then what the solver finds below the best of them.

Each plan that is run end to end costs seconds, so few are: uniform ones, until the fastest that keeps the drop is
known; then the solver's, whose tables add up losses of single operators, under a cap on that sum that is moved to where
the real drop is what is allowed. Whatever is returned is by the tables no slower than any uniform plan that keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.schema import Precision, Progress
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.paired import CONFIDENCE
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.select.quality import Quality, Tried, fastest_uniform, nearest_uniform
from tvm_mpq.select.reasons import swapped
from tvm_mpq.select.searcher import Searcher
from tvm_mpq.select.uniforms import has_no_more_bits, middle, uniform_plans, weighted

CAPS = 3
"""Caps on the tables' loss that are tried between the last plan that kept the drop and the first that did not. More
find little: near what is allowed it is chance which plans keep it, and what chance favours loses more on new images."""

WORTH = 0.01
"""Relative gain in latency that is worth a plan: less than that is within the noise of measuring."""

WORTH_A_CAP = 0.02
"""The same for another cap: most of those that may gain so little are not kept."""

WIDE = 4.0
"""Ratio of two caps up to which the next one lies in their middle; beyond, where the drop should be what is allowed."""

INSET = 0.15
"""Share of the way between two caps, in logarithms, that the next one stands away from either."""

DOUBTLESS = 3.0
"""Times the loss, by the tables, of a plan that did not keep the drop: one of so much is not run. What plans really
lose is 0.5 to 1.3 times what the tables say."""

HOPELESS = 4.0
"""Times the drop that is allowed: where a plan that loses so much is no faster than one in hand, none within it is."""

SLOWEST_GROWTH = 0.5
"""Drops grow with the tables' loss at least by this power: twice the noise on logits, four times the KL divergence."""

BOTTOM = 1e-3
"""Share of the least loss that did not keep the drop, below which no cap is tried."""

_TINY = 1e-12  # caps are compared by their logarithm

CLOSE = 1.05
"""Ratio of two caps between which no further one is tried."""


def fastest_within(
    problem: Problem,
    limits: Limits,
    max_drop: float,
    evaluate: Callable[[Solution], Quality],
    searcher: Searcher,
    progress: Progress | None = None,
) -> tuple[Tried, list[Tried]]:
    """The fastest plan found within `limits` that keeps `max_drop`, and all that were run end to end.

    Raises
    ------
    InfeasibleError
        If nothing satisfies the limits, or no plan tried keeps the drop; the text names the nearest uniform plan.
    """
    search = _Search(problem, limits, max_drop, evaluate, searcher, progress)
    search.uniforms()
    try:
        if not search.free():
            search.bisect()
    except InfeasibleError:  # of a searcher that proves nothing, and finds nothing where a uniform plan is in hand
        if not search.keeping():
            raise
    if not search.keeping():
        raise InfeasibleError(_nothing_keeps(max_drop, search.tried))
    search.prefer_integers()
    return search.best(), search.tried


class _Search:
    """The plans tried so far, and the ways to try more."""

    def __init__(
        self,
        problem: Problem,
        limits: Limits,
        max_drop: float,
        evaluate: Callable[[Solution], Quality],
        searcher: Searcher,
        progress: Progress | None,
    ) -> None:
        self._problem, self._limits, self._max_drop = problem, limits, max_drop
        self._evaluate, self._searcher, self._progress = evaluate, searcher, progress
        self._free: Solution | None = None
        self._caps = CAPS
        self._preferred: Tried | None = None
        self.tried: list[Tried] = []

    def keeping(self) -> list[Tried]:
        return [t for t in self.tried if t.quality.keeps(self._max_drop)]

    def best(self) -> Tried:
        """The plan to return, of those that keep the drop."""
        return self._preferred or min(self.keeping(), key=lambda t: (t.solution.latency_us, t.quality.drop.estimate))

    def uniforms(self) -> None:
        """Find the fastest uniform plan that keeps the drop: it bounds all that follows.

        A plan of no more bits anywhere than one that does not keep the drop is not run either, nor is one that is
        no faster than one that does, nor a hopeless one. Next is always the one in the middle of those left.
        """
        plans = uniform_plans(self._problem, but_ends=True)
        priced = {name: self._price(labels) for name, labels in plans.items()}
        left = {name: s for name, s in priced.items() if s is not None and _is_within(s, self._limits)}
        names = weighted(self._problem)

        while left:
            name = middle(left)
            done = [n for n, s in left.items() if has_no_more_bits(s, left[name], names)]
            met = None if self._is_hopeless(left[name]) else self._attempt(left[name], name)
            if met is not None and met.quality.keeps(self._max_drop):
                done = [n for n, s in left.items() if self._too_slow(s)]
            elif met is not None and met.quality.drop.broken:
                done = [name]  # what is not finite at 16 bits says nothing of integers
            left = {n: s for n, s in left.items() if n not in done}

    def free(self) -> bool:
        """Run the fastest plan there is; True when it keeps the drop, or gains nothing over what does."""
        self._free = self._searcher.best(self._problem, self._limits, "latency")
        if self._too_slow(self._free):
            return True
        return not self._is_hopeless(self._free) and self._keeps(self._free)

    def bisect(self) -> None:
        """Move the cap on the tables' loss to where the real drop is what is allowed.

        Real drops scatter and do not follow the sum of losses strictly, so every plan seen to keep the drop counts.
        """
        assert self._free is not None, "asked for only when the fastest plan does not keep the drop"
        least = self._searcher.best(self._problem, self._limits, "loss")
        high = self._free
        low = min(self.keeping(), key=lambda t: t.solution.latency_us, default=None)
        if low is None:
            self._attempt(least)
        elif least.loss < low.solution.loss < high.loss:
            self._narrow(low.solution.loss, high)
            # The solver's plan of no more loss is no slower than the uniform one that kept the drop, and of no use
            # where a cap above that was kept.
            found = self._fastest_below(low.solution.loss)
            if found is None or self._keeps(found):
                return
            high = found
        self._narrow(least.loss, high)

    def _narrow(self, bottom: float, high: Solution) -> None:
        """Try caps between a loss at which the drop is kept, or so small that none need be smaller, and a plan's."""
        top = min(self._least_failing(), high.loss)
        bottom = max(bottom, BOTTOM * top, _TINY)
        while self._caps and top > CLOSE * bottom and not self._too_slow(high, WORTH_A_CAP):
            cap = self._next_cap(bottom, top)
            found = self._fastest_below(cap)
            if found is None:
                bottom = cap
                if self._expected(cap) > HOPELESS * self._max_drop:
                    return
                continue
            self._caps -= 1
            if self._keeps(found):
                bottom = cap
            else:
                high, top = found, found.loss

    def _next_cap(self, bottom: float, top: float) -> float:
        """Where the drop should be what is allowed, by the plan tried whose loss is nearest; kept off both ends.

        That says little of losses that lie close together, of which the middle is taken.
        """
        between = math.sqrt(bottom * top)
        if top <= WIDE * bottom:
            return between
        expected = self._expected(between)
        cap = between * self._max_drop / expected if 0 < expected < math.inf else between
        inset: float = (top / bottom) ** INSET
        return min(max(cap, bottom * inset), top / inset)

    def _expected(self, loss: float) -> float:
        """Upper bound of the drop of a plan of this loss, in proportion to what the nearest plan tried showed."""
        known = [t for t in self.tried if t.solution.loss > 0 and not t.quality.drop.broken]
        if not known:
            return math.nan
        nearest = min(known, key=lambda t: abs(math.log(t.solution.loss / loss)))
        return loss * nearest.quality.drop.high / nearest.solution.loss

    def prefer_integers(self) -> None:
        """Float operators that gain less than the noise, all together, become integers if the drop is kept so too."""
        best = self.best()
        names = weighted(self._problem)
        floats = [name for name in names if Precision.parse(best.solution.choices[name]).is_float]
        if not floats or len(floats) == len(names):
            return
        most = (1 + WORTH) * best.solution.latency_us
        rival = fastest_uniform(self.tried, self._max_drop)
        if rival is not None:
            most = min(most, max(rival.solution.latency_us, best.solution.latency_us))
        options = [(s.latency_us, name, s) for name in floats if (s := swapped(self._problem, best.solution, name))]
        now = best.solution
        for us, name, _ in sorted(options, key=lambda option: option[:2]):
            if us < best.solution.latency_us * (1 - 1e-9):
                continue  # faster as an integer: it is a float for its loss
            step = swapped(self._problem, now, name)
            if step is None or step.latency_us > most or not _is_within(step, self._limits):
                break
            now = step
        if now is not best.solution:
            met = self._attempt(now)
            if met.quality.keeps(self._max_drop):
                self._preferred = met

    def _is_hopeless(self, solution: Solution) -> bool:
        """Whether a plan of several times less loss does not keep the drop, or the lower bound of one that surely loses
        something (a little may be lost by chance) says that this one loses far too much."""
        if solution.loss >= DOUBTLESS * self._least_failing():
            return True
        known = [t for t in self.tried if 0 < t.solution.loss < solution.loss and not t.quality.drop.broken]
        sure = (t for t in known if t.quality.drop.low >= self._max_drop / 2)
        growth = ((solution.loss / t.solution.loss) ** SLOWEST_GROWTH * t.quality.drop.low for t in sure)
        return max(growth, default=0.0) > HOPELESS * self._max_drop

    def _least_failing(self) -> float:
        """By the tables, of plans that do not keep the drop, unless for what is not finite; infinite where none is."""
        failing = (t for t in self.tried if not t.quality.keeps(self._max_drop) and not t.quality.drop.broken)
        return min((t.solution.loss for t in failing if t.solution.loss > 0), default=math.inf)

    def _keeps(self, solution: Solution, name: str = "") -> bool:
        return self._attempt(solution, name).quality.keeps(self._max_drop)

    def _attempt(self, solution: Solution, name: str = "") -> Tried:
        for old in self.tried:
            if old.solution.choices == solution.choices and old.solution.formats == solution.formats:
                return old
        self.tried.append(Tried(solution, self._evaluate(solution), name))
        if self._progress:
            most = max(len(self.tried), CAPS + 5)
            self._progress(len(self.tried), most, "checking plans end to end")
        return self.tried[-1]

    def _fastest_below(self, loss: float) -> Solution | None:
        """The fastest plan of no more loss by the tables; None where none is faster than what keeps the drop."""
        try:
            found = self._searcher.best(self._problem, self._limits.tightened("loss", loss), "latency")
        except InfeasibleError:  # a searcher that proves nothing may find nothing either
            return None
        return None if self._too_slow(found) else found

    def _too_slow(self, solution: Solution, worth: float = WORTH) -> bool:
        """Whether a plan that keeps the drop is as fast already, or nearly so."""
        least = min((t.solution.latency_us for t in self.keeping()), default=math.inf)
        return solution.latency_us >= (1 - worth) * least

    def _price(self, labels: dict[str, str]) -> Solution | None:
        try:
            return cost(self._problem, labels)
        except InfeasibleError:  # no tensor formats fit them
            return None


def _is_within(solution: Solution, limits: Limits) -> bool:
    return not any(solution.quantity(quantity) > most for quantity, most in limits.active())


def _nothing_keeps(max_drop: float, tried: list[Tried]) -> str:
    drops = [t.quality.drop for t in tried]
    least = min(drops, key=lambda d: d.high)
    text = (
        f"budget max_drop {max_drop:g} points cannot be met within the other limits with {CONFIDENCE:.0%} confidence; "
        f"the least found is at most {least.high:.2f} points"
    )
    near = nearest_uniform(tried, max_drop)
    if near is not None:
        drop = near.quality.drop
        text += (
            f", and of uniform plans {near.name} comes nearest: {drop.estimate:.2f} points, at most {drop.high:.2f}, "
            f"{drop.high - max_drop:.2f} too many"
        )
    return text + "; allow a larger drop, or more latency or size"
