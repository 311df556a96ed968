"""From tables to the plan that keeps the budget: solved, run end to end, judged, and taught where that is asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.evaluate import PlanEvaluator, remembered
from tvm_mpq.calibrate.judge import Judge, shuffled
from tvm_mpq.errors import InfeasibleError
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.pipeline.bits import BitLearner
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.pipeline.finetune import Finetuner
from tvm_mpq.pipeline.judgement import warning
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.search_states import states_of
from tvm_mpq.pipeline.tables import Tables, measure_chosen_predictions, plan_of
from tvm_mpq.schema import Budget, Plan
from tvm_mpq.select.bolder import fastest_learned
from tvm_mpq.select.choose import choose, effective_budget
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.nearest import nearest_budgets, out_of_reach, rounded_up
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Problem
from tvm_mpq.select.quality import Quality, Tried, fastest_uniform
from tvm_mpq.select.within_drop import WORTH

Selected = tuple[Tables, Tried, list[Tried]]
"""The tables that the chosen plan stands on, measured alone; the plan; and all that were tried."""


class Selector:
    """Selects plans of one network by its tables. data: that plans are judged on. Equal plans are run once."""

    def __init__(self, context: RunContext, tables: Tables, data: Dataset, rounder: Rounder, tuner: Finetuner) -> None:
        self._context, self._tuner, self._data = context, tuner, data
        self._evaluator = self._evaluator_on(data, tables, lambda plan: plan, rounder)
        self._evaluate = remembered(self._evaluator)
        self._seen: list[Quality] = []
        self.judge: Judge = self._evaluator.judge
        """That the plan selected last was judged by."""
        self.budget = context.options.budget
        """That plans are selected by: the nearest one that can be kept, where that was asked for."""
        text = warning(self.judge)
        if text:
            context.options.tell(text)

    def select(self, tables: Tables, latency_share: float) -> Selected:
        """The plan to build. latency_share: of the latency budget that may be used by the table's account.

        Raises
        ------
        InfeasibleError
            If nothing keeps the budget; the text says what the nearest one is.
        """
        options = self._context.options
        self.judge = self._evaluator.judge
        while True:
            options.tell("selecting")
            try:
                chosen, tried = self._choose(tables, self.budget, self._noted, latency_share)
            except InfeasibleError as e:
                if latency_share < 1:
                    raise
                self._relax(tables, e)
                continue
            settled = measure_chosen_predictions(self._context, tables, chosen.solution)
            if settled is None:
                break
            tables = settled
            now = _repriced(tables.problem, chosen)
            if stands(chosen.solution.latency_us, now.solution.latency_us, self.budget):
                chosen = now
                break
        chosen, tried = self._taught(tables, chosen, tried, latency_share)
        return settled_plans(self._context, tables, chosen, tried, effective_budget(self.budget).max_drop)

    def _noted(self, solution: Solution) -> Quality:
        self._seen.append(self._evaluate(solution))
        return self._seen[-1]

    def _relax(self, tables: Tables, refused: InfeasibleError) -> None:
        """Go on with the nearest budget that can be kept, where that is asked for; else, or without one, raise."""
        options, problem = self._context.options, tables.optimistic
        found = nearest_budgets(problem, self.budget, tables.int8.latency_us, options.solver_time_limit_sec)
        text = out_of_reach(problem, self.budget, found) if found else str(refused)
        drop = min((q.drop.high for q in self._seen), default=math.inf)
        if found:
            nearest = found[0].budget
        elif effective_budget(self.budget).max_drop is not None and 0 < drop < math.inf:
            nearest = dataclasses.replace(self.budget, max_drop=rounded_up(drop))
        else:
            raise refused
        if not options.nearest or nearest == self.budget:
            raise InfeasibleError(f"{text}; --nearest builds that plan") from refused
        options.tell(f"{text}; selecting within that")
        self.budget = nearest

    def _choose(
        self, tables: Tables, budget: Budget, evaluate: Callable[[Solution], Quality], latency_share: float
    ) -> tuple[Tried, list[Tried]]:
        options = self._context.options
        return choose(
            tables.optimistic,
            budget,
            tables.int8,
            evaluate,
            searcher=options.searcher(bits=BitLearner(self._context, tables.plan), memories=states_of(self._context)),
            latency_share=latency_share,
            progress=options.progress,
        )

    def _taught(
        self, tables: Tables, chosen: Tried, tried: list[Tried], latency_share: float
    ) -> tuple[Tried, list[Tried]]:
        """The plan chosen, or where plans may learn a faster one that keeps the drop after that."""
        options = self._context.options
        max_drop = effective_budget(self.budget).max_drop
        if not options.finetune_epochs or max_drop is None:
            return chosen, tried
        # A plan fits what it learned from: it is judged on samples that it did not.
        aside = self._data if options.judge == "eval" else self._tuner.kept_aside()
        evaluator = self._evaluator_on(aside, tables, lambda plan: self._tuner.tuned(plan)[0], self._tuner)

        def within(drop: float) -> Tried | None:
            options.tell(f"selecting a plan that may lose {drop:g} points before it learns")
            bolder = dataclasses.replace(self.budget, max_drop=drop)
            evaluate = remembered(lambda solution: self._evaluator(solution, drop))
            try:
                return self._choose(tables, bolder, evaluate, latency_share)[0]
            except InfeasibleError:
                return None

        found = fastest_learned(chosen, max_drop, within, evaluator)
        if found is chosen:
            return chosen, tried
        self.judge = evaluator.judge
        return found, [*(t for t in tried if t.solution.choices != found.solution.choices), found]

    def _evaluator_on(
        self,
        data: Dataset,
        tables: Tables,
        taught: Callable[[Plan], Plan],
        codes_of: Callable[[Plan], WeightCodes],
    ) -> PlanEvaluator:
        context, options = self._context, self._context.options
        options.tell("running fp32 on the images that plans are judged on")
        return PlanEvaluator(
            context.prepared,
            context.store,
            context.interpret,
            lambda solution: taught(plan_of(context, tables, solution)),
            codes_of,
            tables.plan,
            shuffled(data, options.check_samples),
            allowed=effective_budget(options.budget).max_drop,
            new=options.judge == "eval",
        )


def stands(chosen_for_us: float, measured_us: float, budget: Budget) -> bool:
    """Whether a plan stays chosen when its predictions are measured: it takes what it was chosen for, within the noise.

    Within a limit on latency it takes no more than it was chosen for.
    """
    limited = budget.latency_ms is not None or budget.latency_ratio is not None
    return measured_us <= (chosen_for_us if limited else (1 + WORTH) * chosen_for_us)


def settled_plans(
    context: RunContext, tables: Tables, chosen: Tried, tried: list[Tried], max_drop: float | None
) -> Selected:
    """The same, with nothing predicted of what may be built: the plan, and the uniform one it is timed beside."""
    settled: Tables | None = tables
    while settled is not None:
        tables = settled
        chosen, tried = _repriced(tables.problem, chosen), [_repriced(tables.problem, t) for t in tried]
        rival = None if max_drop is None else fastest_uniform(tried, max_drop)
        settled = measure_chosen_predictions(context, tables, chosen.solution)
        if settled is None and rival is not None:
            settled = measure_chosen_predictions(context, tables, rival.solution)
    return tables, chosen, tried


def _repriced(problem: Problem, tried: Tried) -> Tried:
    """With the latency that the problem gives it."""
    solution = tried.solution
    us = price(problem, solution.choices, solution.formats).latency_us
    return dataclasses.replace(tried, solution=dataclasses.replace(solution, latency_us=us))
