"""Greedy: one operator at a time, by what it loses for what it saves. The usual way where there is no solver.

Down: from the best objective of every operator alone, the change that takes off most of what is above the limits for
what it adds to the objective, until the plan is within them. Up: from there, and from the best uniform plan within the
limits, the change that gains most for what it takes of what is left, until none gains. With a latency limit the first
takes away bits where a microsecond costs least loss; the second gives them back where it saves most. The same for every
objective and any set of limits. Deterministic: the seed does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from tvm_mpq.select.methods.completion import Completed
from tvm_mpq.select.methods.search import Search
from tvm_mpq.select.methods.starts import alone, uniforms

_LITTLE = 1e-12  # of a share of the limits: what gains and takes nothing is taken first


class Greedy:
    """Implements `Method`."""

    name: ClassVar[str] = "greedy"
    evaluations: ClassVar[int] = 200_000

    def explore(self, search: Search) -> None:
        starts = [search.start(alone(search))]
        plans = [plan for labels in uniforms(search.completion) if (plan := search.start(labels)) is not None]
        within = [plan for plan in plans if search.excess(plan) == 0]
        outside = [plan for plan in plans if search.excess(plan) > 0]
        if within:
            starts.append(min(within, key=search.rank))
        elif outside:
            starts.append(min(outside, key=search.excess))
        for plan in starts:
            inside = None if plan is None else self.down(search, plan)
            if inside is not None:
                self.up(search, inside)

    @staticmethod
    def down(
        search: Search, plan: Completed, moves: Callable[[Completed], Iterable[Completed]] | None = None
    ) -> Completed | None:
        """The first plan within the limits on the cheapest way there; None where no single change leads nearer.

        moves: the changes that are looked at; None = all of one operator.
        """
        moves = moves or search.moves
        while (excess := search.excess(plan)) > 0:
            nearer = [p for p in moves(plan) if search.excess(p) < excess]
            if not nearer:
                return None
            value = search.value(plan)
            plan = min(nearer, key=lambda p: (search.value(p) - value) / (excess - search.excess(p)))
        return plan

    @staticmethod
    def up(search: Search, plan: Completed) -> Completed:
        """A plan within the limits that no single change improves."""
        while True:
            rank, usage, value = search.rank(plan), search.usage(plan), search.value(plan)
            better = [p for p in search.moves(plan) if search.excess(p) == 0 and search.rank(p) < rank]
            if not better:
                return plan

            def gained(p: Completed, usage: float = usage, value: float = value) -> tuple[float, ...]:
                ratio = (value - search.value(p)) / max(search.usage(p) - usage, _LITTLE)
                return (-ratio, *search.rank(p))

            plan = min(better, key=gained)
