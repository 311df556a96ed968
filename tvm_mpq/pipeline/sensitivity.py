"""What each operator would lose at each precision, on its own: the accuracy half of the tables that `optimize` uses."""

from __future__ import annotations

from tvm_mpq.calibrate import learn
from tvm_mpq.execute.accuracy import check_labels, classifies, metric_for
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.options import Options
from tvm_mpq.report.answers import OperatorLosses, OutputLoss, SensitivityReport


def sensitivity(options: Options) -> SensitivityReport:
    """Calibrate and estimate; what the database knows is not done again, and an interrupted run goes on.

    Raises
    ------
    MPQError
        As `open_context` and `load_dataset` do.
    """
    with open_context(options) as context:
        return _sensitivity(context)


def _sensitivity(context: RunContext) -> SensitivityReport:
    options, prepared = context.options, context.prepared
    data = context.data
    check_labels(data.labels, classifies=classifies(prepared.graph))
    if data.synthetic:
        options.tell("no calibration data given: synthetic data (standard normal) are used; expect poor estimates")
    options.tell("calibrating")
    ranges = context.interpret(lambda run: context.learner.ranges(run, data))
    options.tell("estimating sensitivity")
    plan = learn.bare_plan(prepared, ranges)
    parts = context.parts
    found = context.interpret(lambda run: context.learner.losses(run, plan, parts))
    table = context.learner.table(found)
    operators: list[OperatorLosses] = []
    for node in prepared.graph.quantizable():
        losses: dict[str, OutputLoss] = {
            precision: {
                "loss": table[operator, precision],
                "disagree": loss.disagree / loss.samples,
                "wrong": loss.wrong / loss.samples if data.labels is not None else None,
            }
            for (operator, precision), loss in found.items()
            if operator == node.name
        }
        operators.append({"name": node.name, "workload": node.quantizable.key, "losses": losses})
    return {
        "model": prepared.loaded.name,
        "target": prepared.row.name,
        "metric": metric_for(prepared.graph),
        "samples": min(len(parts.judged), options.sensitivity_samples),
        "synthetic": data.synthetic,
        "operators": operators,
        **context.condition(),
    }
