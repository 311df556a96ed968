"""Everything that is measured and learned about one network, and the selection problem made of it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm_mpq.calibrate import learn
from tvm_mpq.costs import fixed
from tvm_mpq.costs.correction import Correction, correct, fit, observe, stored_bytes
from tvm_mpq.costs.fixed import float_time_us
from tvm_mpq.costs.measured import complete, measure_all
from tvm_mpq.costs.source import LatencySource, MeasuredLatencies, PredictedLatencies
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.errors import InvalidValueError, NoKernelError
from tvm_mpq.execute import network
from tvm_mpq.execute.build_cache import NetworkBuildCache
from tvm_mpq.kernels.registry import Request
from tvm_mpq.passes.lowering import KernelStep
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.pipeline.forecast import remember_pace
from tvm_mpq.pipeline.problem import Space, build_problem
from tvm_mpq.schema import Plan, Precision
from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.methods.estimated import Estimated
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Problem
from tvm_mpq.select.within_drop import WORTH
from tvm_mpq.simulators.source import SimulatedLatencies

UNIFORM = "w8a8"

ReferenceRun = tuple[Solution, float]
"""A solution whose network was measured, and the microseconds it took."""


@dataclass(frozen=True)
class Tables:
    """Everything measured about a network, and the selection problem made of it."""

    plan: Plan  # fp32, with ranges and kernels; the frame every other plan fills
    latency: LatencyTable
    losses: dict[tuple[str, str], float]
    problem: Problem
    optimistic: Problem  # the same, predictions priced optimistically: what it chooses is measured before it counts
    correction: Correction
    runs: tuple[ReferenceRun, ...] = ()  # what the correction was fitted on

    @cached_property
    def fp32(self) -> Solution:
        """Everything in float32."""
        return cost(self.problem, uniform(self.problem, "fp32"))

    @cached_property
    def int8(self) -> Solution:
        """w8a8 wherever there is a kernel for it; tensors without weights as is fastest."""
        weighted = [o.name for o in self.problem.operators if any(o.exact_inputs)]
        labels = uniform(self.problem, UNIFORM, ["fp32"])
        found = cost(self.problem, {name: labels[name] for name in weighted})
        # The network that was built and measured stands for it, unless other formats gain more than the noise.
        for solution, _ in self.runs:
            if all(solution.choices[name] == labels[name] for name in weighted):
                now = price(self.problem, solution.choices, solution.formats)
                if now.latency_us <= (1 + WORTH) * found.latency_us:
                    return dataclasses.replace(solution, latency_us=now.latency_us)
        return found


def build_tables(context: RunContext, *, whole: bool = True) -> Tables:
    """Measure or simulate latencies, calibrate, estimate sensitivity; whatever the database knows is not done again.

    whole: whether all is measured before anything is chosen, or kernels that plans seldom run when one is (see
    `measure_chosen_predictions`).
    """
    options, prepared = context.options, context.prepared
    space = Space(prepared.graph, prepared.features, prepared.threads)
    if options.simulator is None:
        options.tell("measuring kernels on " + ("this CPU" if options.rpc is None else "the board"))
    else:
        _check_integers(space, options.latency_source)
    begun = time.monotonic()
    table = _source(context).table(space.requests(), () if whole else space.later())
    context.measuring_sec += time.monotonic() - begun
    remember_pace(context, table.measured, time.monotonic() - begun)
    options.tell("calibrating")
    ranges = context.interpret(lambda run: context.learner.ranges(run, context.data))
    plan = dataclasses.replace(learn.bare_plan(prepared, ranges), kernels=_kernel_rows(table))
    losses = (estimated_losses if options.method == Estimated.name else _losses)(context, plan)
    return Tables(plan, table, losses, *_problems(context, plan, table, losses), Correction())


def _losses(context: RunContext, plan: Plan) -> dict[tuple[str, str], float]:
    context.options.tell("estimating sensitivity")
    found = context.interpret(lambda run: context.learner.losses(run, plan, context.parts))
    return context.learner.table(found)


def estimated_losses(context: RunContext, plan: Plan) -> dict[tuple[str, str], float]:
    """What the method `ohq` has in the place of sensitivity. plan: fp32, with ranges."""
    context.options.tell("estimating sensitivity by masks")
    return context.interpret(lambda run: context.learner.masked(run, plan, context.data))


def _source(context: RunContext) -> LatencySource:
    options, profiler = context.options, context.profiler()
    if options.simulator is not None:
        return SimulatedLatencies(options.simulator, context.db, options.progress)
    if options.measure_fraction < 1:
        return PredictedLatencies(profiler, context.prepared.row, options.measure_fraction, options.tell)
    return MeasuredLatencies(profiler)


def _check_integers(space: Space, source: str) -> None:
    """Raises NoKernelError where an operator has only floating-point kernels: simulated machines have no floats."""
    for node in space.graph.quantizable():
        if all(Precision.parse(label).is_float for label in space.options(node)):
            raise NoKernelError(
                f"latency source {source!r} prices integers only, and operator {node.name!r} has no integer kernel "
                "here; use --latency-source measured"
            )


def _problems(
    context: RunContext, plan: Plan, table: LatencyTable, losses: dict[tuple[str, str], float]
) -> tuple[Problem, Problem]:
    """The selection problem of the table as it is now, not corrected, and the optimistic one."""
    prepared, profiler = context.prepared, context.profiler()
    fixed_us = call_us = 0.0
    if context.options.simulator is None:
        fixed_us = float_time_us(profiler, network.float_functions(network.realize(prepared, plan)))
        call_us = fixed.call_us(profiler)
    elif left_out := sum(node.kind == "float" for node in prepared.graph.nodes):
        context.options.tell(f"{left_out} float operators that no plan changes are not in the simulated latencies")

    def problem(us: Callable[[Request], float]) -> Problem:
        space = Space(prepared.graph, prepared.features, prepared.threads)
        return build_problem(space, us, table, losses, fixed_us=fixed_us, call_us=call_us)

    measured = problem(table.latency_us)
    return measured, problem(table.optimistic_us) if table.predicted() else measured


def measure_chosen_predictions(context: RunContext, tables: Tables, solution: Solution) -> Tables | None:
    """Tables in which everything that the solution runs is measured; None when it was so already.

    The correction is fitted anew on the old runs of the reference networks.
    """
    steps = network.all_steps(context.prepared, plan_of(context, tables, solution))
    used = {step.kernel.request.key for step in steps if isinstance(step, KernelStep)}
    open_ones = {key: k for key, k in tables.latency.predicted().items() if k.request.key in used}
    if not open_ones:
        return None
    context.options.tell(f"measuring what was predicted of the chosen plan ({len(open_ones)} of its latencies)")
    measure_all(context.profiler(), tables.latency, open_ones)
    tables.latency.forget_predictions(open_ones.values())  # of kernels that could not be measured
    complete(tables.latency, [kernel.request for kernel in open_ones.values()])
    problem, optimistic = _problems(context, tables.plan, tables.latency, tables.losses)
    return corrected(context, dataclasses.replace(tables, problem=problem, optimistic=optimistic), tables.runs)


def corrected_tables(context: RunContext, tables: Tables, builds: NetworkBuildCache) -> Tables:
    """The same tables, corrected by what uniform fp32 and 8 bit networks really take on this device.

    The runs are kept in the database, so that a repeated search sees the same tables. Tables of a machine that is not
    here stay as they are.
    """
    if context.options.simulator is not None:
        return tables
    context.options.tell("building and measuring uniform networks")
    solutions = references(tables)
    measured_us = builds.known_us({name: plan_of(context, tables, solution) for name, solution in solutions.items()})
    return corrected(context, tables, [(solutions[name], us) for name, us in measured_us.items()])


def references(tables: Tables) -> dict[str, Solution]:
    """The solutions whose networks are measured to correct the tables."""
    return {"fp32": tables.fp32, "int8": tables.int8}


def corrected(context: RunContext, tables: Tables, runs: Sequence[ReferenceRun]) -> Tables:
    """The same tables, which are not corrected yet, corrected by runs of whole networks."""
    tensors, problem = context.prepared.graph.tensors, tables.problem

    def tensor_bytes(name: str, bits: int) -> int:
        return stored_bytes(tensors[name].shape, bits)

    seen = []
    for solution, us in runs:
        with contextlib.suppress(InvalidValueError):  # one of its kernels could not be measured in the end
            seen.append(observe(problem, solution, us, tensor_bytes))
    correction = fit(seen)
    fixed = correct(problem, correction, tensor_bytes)
    optimistic = fixed if tables.optimistic is problem else correct(tables.optimistic, correction, tensor_bytes)
    return dataclasses.replace(tables, problem=fixed, optimistic=optimistic, correction=correction, runs=tuple(runs))


def _kernel_rows(table: LatencyTable) -> dict[str, dict[str, Any]]:
    return {key: {"family": k.family.name, "knobs": k.knobs} for key, k in sorted(table.kernels.items())}


def plan_of(context: RunContext, tables: Tables, solution: Solution) -> Plan:
    """The plan that a solution stands for."""
    names = [n.name for n in context.prepared.graph.quantizable()]
    operators = {name: solution.choices[name] for name in names}
    used = {Precision.parse(text).activation_bits for text in operators.values()}
    tensors = {name: [q for q in found if q.bits in used | {8}] for name, found in tables.plan.tensors.items()}
    return dataclasses.replace(tables.plan, operators=operators, formats=dict(solution.formats), tensors=tensors)
