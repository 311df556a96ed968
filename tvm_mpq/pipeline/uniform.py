"""Build without searching: one precision everywhere, or a plan that somebody made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tvm_mpq import scratch, targets
from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import doubt
from tvm_mpq.costs.profiler import tuned_kernel
from tvm_mpq.errors import InvalidValueError, NoKernelError
from tvm_mpq.execute import network
from tvm_mpq.execute.build_check import check_build
from tvm_mpq.execute.prepare import Prepared
from tvm_mpq.kernels import Request, families, fitting, longest_sum
from tvm_mpq.numerics.saved_plan import load_plan, save_plan
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.graph import Node
from tvm_mpq.passes.lowering import BYTE, KernelStep
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.finetune import tuned_build
from tvm_mpq.pipeline.options import Options, require_torch
from tvm_mpq.pipeline.result import Result
from tvm_mpq.pipeline.rounding import Rounder
from tvm_mpq.pipeline.verification import import_verification
from tvm_mpq.report.answers import BuildReport
from tvm_mpq.schema import FLOAT_BITS, W8A8, Plan, Precision, TensorQuant
from tvm_mpq.tuning.devices.boards import Boards

SavedPlan = tuple[Plan, WeightCodes]
"""A plan and the integers of its weights, as `load_plan` gives them."""

_NAMED = 3  # operators that a message names


def build_network(
    options: Options, *, uniform: str | None, keep: tuple[str, ...] = (), plan: Path | None = None
) -> Result[BuildReport]:
    """Compile a network at one precision or under a saved plan.

    Parameters
    ----------
    uniform
        Precision text for every operator that has a kernel for it; the others fall back to w8a8, then fp32;
        under a float precision to fp32 at once.
    keep
        Operators that stay at w8a8 (fp32 where that has no kernel): names, or `first` and `last`.
    plan
        A plan file (or its folder) instead; it is built for its own threads unless `options.threads` says others.

    Raises
    ------
    VerificationError
        If the library computes something else than its operators one by one.
    InvalidValueError
        If neither or both of `uniform` and `plan` are given, or `keep` names an unknown operator.
    """
    if (uniform is None) == (plan is None):
        raise InvalidValueError("give either --uniform PRECISION or --plan FILE, one of them")
    if uniform is not None and Precision.parse(uniform) not in options.offered:
        options = dataclasses.replace(options, precisions=(uniform,))
    saved = None if plan is None else load_plan(plan)
    if saved is not None:
        options = dataclasses.replace(options, threads=options.threads or saved[0].threads)
    if options.finetune_epochs:
        require_torch()
    with open_context(options, compile_only=saved is not None or _needs_no_run(options, uniform, keep)) as context:
        return _build(context, options, uniform, keep, saved)


def _needs_no_run(options: Options, uniform: str | None, keep: tuple[str, ...]) -> bool:
    """Whether neither ranges nor anything learned is needed: floats are compiled without the device."""
    return uniform is not None and Precision.parse(uniform).is_float and not keep and not options.finetune_epochs


def _build(
    context: RunContext,
    options: Options,
    uniform: str | None,
    keep: tuple[str, ...],
    plan: SavedPlan | None,
) -> Result[BuildReport]:
    prepared = context.prepared
    if plan is not None:
        chosen, codes = _fitted(plan[0], context), plan[1]
    else:
        wanted = Precision.parse(str(uniform))
        running = running_at(prepared, wanted)
        precisions = uniform_precisions(prepared, wanted, keep, running)
        for line in fallen_back(prepared, precisions, wanted, running):
            options.tell(line)
        if computed_with_more_bits(prepared, wanted, running):
            options.tell(
                f"no operator gains by {wanted} here: code of more bits computes it, and weights take the bytes of "
                "that code; nothing gets faster by it (tvm-mpq inspect lists precisions that have code of their own)"
            )
        data = context.data
        floats = all(Precision.parse(p).is_float for p in precisions.values())
        ranges: dict[str, list[TensorQuant]] = {}
        if not floats:
            if data.synthetic and not prepared.own.covers(prepared.graph):
                options.tell("no calibration data given: synthetic data (standard normal) are used; expect poor ranges")
            if poor := doubt(data):
                options.tell(poor)
            ranges = context.interpret(lambda run: context.learner.ranges(run, data))
        chosen = Plan(prepared.row.name, prepared.tvm_target_attrs, precisions, ranges)
        chosen = dataclasses.replace(chosen, kernels=_tuned(context, chosen))
        codes = WeightCodes({})
        if not floats:
            options.tell("rounding weights")
            codes = Rounder(context, data)(chosen)
    chosen, codes, learned = tuned_build(context, chosen, codes)
    work = scratch.folder()
    folder = Path(work.name)
    options.tell("compiling")
    mod = network.realize(prepared, chosen, codes)
    built = network.build(prepared, chosen, folder / "model.so", mod, context.store)
    _check(context, chosen, codes, folder / "model.so")
    chosen = dataclasses.replace(chosen, info={**chosen.info, **network.plan_info(prepared, built)})
    chosen = save_plan(chosen, codes, folder)
    report: BuildReport = {
        "model": prepared.loaded.name,
        "target": prepared.row.name,
        "plan": dict(chosen.operators),
        "size_bytes": built.bytes,
        "activation_bytes": built.activation_bytes,
        "weight_bytes": network.weight_bytes(network.all_steps(prepared, chosen)),
        "import_check": import_verification(context.import_check),
        "artifacts": {},
    }
    if learned is not None:
        report["finetune"] = learned
    return Result(chosen, report, work)


def _check(context: RunContext, plan: Plan, codes: WeightCodes, library: Path) -> None:
    """Run what was built on one sample, where code for the target runs. Raises VerificationError."""
    if not isinstance(context.pool, Boards) and context.host_interpreter() is None:
        return
    context.options.tell("verifying what was built")
    prepared = context.prepared
    data = context.data.runs(np.arange(1))
    inputs = [[data.sample(0)[name] for name in prepared.inputs]]
    (output,) = context.pool.do(lambda session: network.run_library(session, library, inputs))
    (sample,) = learn.graph_samples(prepared, data)
    context.interpret(lambda run: check_build(prepared, run, context.store, plan, codes, sample, output))


def _fitted(plan: Plan, context: RunContext) -> Plan:
    """A plan made for another CPU keeps its precisions and ranges; kernels and target become those asked for."""
    row, attrs = context.prepared.row, context.prepared.tvm_target_attrs
    if all(plan.tvm_target_attrs.get(name) == attrs.get(name) for name in ("mcpu", "mtriple", "mattr")):
        return dataclasses.replace(plan, tvm_target_attrs=attrs)  # perhaps for other threads
    context.options.tell(
        f"the plan was made for target {plan.target!r}: its precisions and ranges are kept, and {row.name!r} gets its "
        "own default kernels, whose latency nobody measured"
    )
    return dataclasses.replace(plan, target=row.name, tvm_target_attrs=attrs, kernels={})


def _tuned(context: RunContext, plan: Plan) -> dict[str, dict[str, Any]]:
    """Kernels of the plan for which this device knows a faster one than the default, as a plan names them."""
    profiler = context.profiler()
    steps = network.all_steps(context.prepared, plan)
    requests = {s.kernel.request.key: s.kernel.request for s in steps if isinstance(s, KernelStep)}
    found = {key: tuned_kernel(profiler, request) for key, request in requests.items()}
    return {key: {"family": k.family.name, "knobs": k.knobs} for key, k in sorted(found.items()) if k is not None}


def uniform_precisions(
    prepared: Prepared, wanted: Precision, keep: tuple[str, ...], running: frozenset[str]
) -> dict[str, str]:
    """Operator -> precision text; running: names of those that can run at `wanted` (see `running_at`)."""
    nodes = list(prepared.graph.quantizable())
    names = [n.name for n in nodes]
    kept = {"first": names[:1], "last": names[-1:]}
    held = {name for word in keep for name in kept.get(word, [word])}
    unknown = sorted(held - set(names))
    if unknown:
        raise InvalidValueError(f"--keep takes first, last or operator names; unknown: {', '.join(unknown)}")
    if nodes and not running:
        offered = sorted({c for n in nodes for c in n.candidates})
        reason = _reasons(prepared, nodes, wanted) or _having(prepared, wanted)
        raise NoKernelError(
            f"no operator has a kernel for {wanted} on this target{reason}; there are {', '.join(offered)}"
        )
    precisions = {}
    fallback = ["fp32"] if wanted.is_float else ["w8a8", "fp32"]
    for node in nodes:
        if node.name not in held and node.name in running:
            precisions[node.name] = str(wanted)
        else:
            order = ["w8a8", "fp32"] if node.name in held else fallback
            precisions[node.name] = next(p for p in order if p in node.candidates)
    return precisions


def running_at(prepared: Prepared, wanted: Precision) -> frozenset[str]:
    """Operators that run at this precision: those that gain by it; where none does, all that have any kernel for it.

    A precision that no operator gains by is asked for to see its accuracy; the code of more bits computes it.
    """
    nodes = list(prepared.graph.quantizable())
    gaining = frozenset(n.name for n in nodes if str(wanted) in n.candidates)

    def served(node: Node) -> bool:
        out_bits = FLOAT_BITS if node.quantizable.is_float_at(wanted) else BYTE
        return bool(fitting(Request(node.quantizable, wanted, out_bits, prepared.features, prepared.threads)))

    return gaining or frozenset(n.name for n in nodes if served(n))


def computed_with_more_bits(prepared: Prepared, wanted: Precision, running: frozenset[str]) -> bool:
    """Whether operators run at a precision of few bits for its accuracy alone: none has code of its own for it."""
    own = any(str(wanted) in node.candidates for node in prepared.graph.quantizable())
    return bool(running) and not own and not wanted.is_float and wanted != W8A8


def fallen_back(
    prepared: Prepared, precisions: dict[str, str], wanted: Precision, running: frozenset[str]
) -> Iterator[str]:
    """One line for each precision at which operators stay because `wanted` has no kernel of its own for them."""
    without: dict[str, list[Node]] = {}
    for node in prepared.graph.quantizable():
        if node.name not in running:
            without.setdefault(precisions[node.name], []).append(node)
    for precision, nodes in without.items():
        names = ", ".join(n.name for n in nodes[:_NAMED])
        more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
        yield f"no kernel of its own for {wanted}: {names}{more} at {precision}{_reasons(prepared, nodes, wanted)}"


def _having(prepared: Prepared, wanted: Precision) -> str:
    """Which targets have what the kernels for `wanted` need and this one lacks, in brackets."""
    needed = [
        row.isa_features for row in families() if row.dtype is wanted.dtype and wanted.weight_bits in row.weight_bits
    ]
    if not needed or any(features <= prepared.features for features in needed):
        return ""
    fewest = min(needed, key=lambda features: (len(features - prepared.features), sorted(features)))
    having = [row.name for row in targets.ROWS if fewest <= targets.features(row)]
    lacking = ", ".join(sorted(fewest - prepared.features))
    return f" (its kernels need {lacking}: targets {', '.join(having)})"


def _reasons(prepared: Prepared, nodes: Iterable[Node], wanted: Precision) -> str:
    """Which of the nodes add up more products than int32 holds, in brackets."""
    reasons = []
    for node in nodes:
        out_bits = FLOAT_BITS if node.quantizable.float_tensors else BYTE
        most = longest_sum(Request(node.quantizable, wanted, out_bits, prepared.features))
        if 0 < most < node.quantizable.terms:
            reasons.append(f"{node.name} adds up {node.quantizable.terms} products, int32 holds {most}")
    return f" ({'; '.join(reasons[:_NAMED])})" if reasons else ""
