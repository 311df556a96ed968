"""Random plans, repaired: what any method must beat.

Every operator draws one of its choices. While the plan is above a limit, operators in random order draw anew, and keep
what brings the plan nearer; a plan that a whole round brings no nearer is dropped. So the plans within
the limits are not drawn evenly: repair ends just within them, which is where good ones are.
"""

from __future__ import annotations

from typing import ClassVar

from tvm_mpq.select.methods.completion import Completed
from tvm_mpq.select.methods.search import Search


class RandomPlans:
    """Implements `Method`."""

    name: ClassVar[str] = "random"
    evaluations: ClassVar[int] = 20_000

    def explore(self, search: Search) -> None:
        choices = search.completion.choices
        while True:
            plan = search.start(tuple(search.rng.randrange(len(c)) for c in choices))
            if plan is not None:
                self._repair(search, plan)

    @staticmethod
    def _repair(search: Search, plan: Completed) -> None:
        choices, excess = search.completion.choices, search.excess(plan)
        stuck = False
        while excess > 0 and not stuck:
            stuck = True
            order = list(range(len(choices)))
            search.rng.shuffle(order)
            for i in order:
                c = search.rng.randrange(len(choices[i]))
                if c == plan.labels[i]:
                    continue
                found = search.moved(plan, {i: c})
                if found is not None and search.excess(found) < excess:
                    plan, excess, stuck = found, search.excess(found), False
                    if excess == 0:
                        return
