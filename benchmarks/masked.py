"""What sensitivity by masks is worth: its ranks against full sensitivity's, and its share of the work.

    python benchmarks/masked.py MODEL.onnx --data CALIB.npz --db FILE [--samples 8] [--rounding gptq]

The first line is of masks on the given data, the second of masks without any: synthetic inputs, and ranges from them.
Both are held against sensitivity on the data. Work is multiply-adds of convolutions and linear layers.
Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
from command_line import say

from tvm_mpq.calibrate import learn, masked
from tvm_mpq.calibrate.sensitivity import trials
from tvm_mpq.passes.lowering import lower
from tvm_mpq.pipeline import Options
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.tables import estimated_losses
from tvm_mpq.schema import Plan
from tvm_mpq.tuning.predictor.heldout import spearman


def frame(context: RunContext) -> Plan:
    ranges = context.interpret(lambda run: context.learner.ranges(run, context.data))
    return learn.bare_plan(context.prepared, ranges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--db", required=True)
    parser.add_argument("--rounding", default="gptq")
    arguments = parser.parse_args()

    def options(data: str | None) -> Options:
        return Options(
            arguments.model, data=data, db=arguments.db, rounding=arguments.rounding, verify_import=False, say=say
        )

    with open_context(options(arguments.data)) as context:
        prepared, plan = context.prepared, frame(context)
        sums = context.interpret(lambda run: context.learner.losses(run, plan, context.parts))
        full = context.learner.table(sums)
        todo = trials(prepared.graph, plan, prepared.features)
        one = masked.sample_work(prepared.graph, lower(prepared.graph, plan, prepared.features), todo)
        samples = min(len(context.parts.judged), context.options.sensitivity_samples)
    share = one.masked * masked.SAMPLES / (one.full * samples)
    for data in (arguments.data, None):
        with open_context(options(data)) as context:
            found = estimated_losses(context, frame(context))
        keys = [key for key in full if math.isfinite(full[key]) and math.isfinite(found[key])]
        ranks = spearman(np.array([found[k] for k in keys]), np.array([full[k] for k in keys]))
        row = {"inputs": "data" if data else "synthetic", "entries": len(keys), "spearman": round(ranks, 3)}
        print(json.dumps({**row, "samples": masked.SAMPLES, "share of multiply-adds": round(share, 4)}), flush=True)


if __name__ == "__main__":
    main()
