"""What a plan chosen for one machine costs on another, by two machines' tables of the same network.

    python benchmarks/wrong_device.py MODEL.onnx --data CALIB.npz --sources zigzag:edge_tpu_like,zigzag:tpu_like
        [--method haq] [--cut last] [--share 0.8] [--axis latency] [--walks 600] [--seed 0] [--db FILE]

Each machine's plan has the least loss that the method finds within a share of uniform 8 bit's cost there. Then each is
priced on the other machine, tensors in the formats that are fastest there. Printed are costs as shares of 8 bit on that
machine, losses, and bits on the average, of depthwise layers and of others. What is not simulated yet is simulated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator

from tvm_mpq.agents.ddpg import learn
from tvm_mpq.pipeline.context import open_context
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.tables import Tables, build_tables
from tvm_mpq.schema import Conv2dWorkload, Precision
from tvm_mpq.select.evaluate import cost
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.haq import Haq
from tvm_mpq.select.methods.search import PlanSearcher
from tvm_mpq.select.methods.table import searcher_for
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.select.searcher import Searcher
from tvm_mpq.select.uniforms import weighted


def tables_of(arguments: argparse.Namespace, source: str) -> Tables:
    options = Options(
        arguments.model,
        data=arguments.data,
        db=arguments.db,
        latency_source=source,
        rounding="nearest",
        calibration_samples=16,
        sensitivity_samples=4,
        verify_import=False,
    )
    with open_context(options) as context:
        return build_tables(context)


def searcher(arguments: argparse.Namespace) -> Searcher:
    effort = Effort(arguments.seed)
    if arguments.method == Haq.name:
        return PlanSearcher(Haq(learn, cut=arguments.cut, episodes=arguments.walks), effort)
    return searcher_for(arguments.method, effort)


def bits(problem: Problem, found: Solution) -> dict[str, float]:
    """Average weight and activation bits, of depthwise layers and of others."""

    def averages() -> Iterator[tuple[str, float]]:
        shapes = {name: problem.operator(name).workload for name in weighted(problem)}
        for kind in (True, False):
            names = [n for n, s in shapes.items() if isinstance(s, Conv2dWorkload) and s.is_depthwise == kind]
            chosen = [Precision.parse(found.choices[n]) for n in names]
            if chosen:
                text = "depthwise" if kind else "others"
                yield f"{text} w", round(statistics.mean(p.weight_bits for p in chosen), 2)
                yield f"{text} a", round(statistics.mean(p.activation_bits for p in chosen), 2)

    return dict(averages())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--sources", default="zigzag:edge_tpu_like,zigzag:tpu_like")
    parser.add_argument("--method", default="haq")
    parser.add_argument("--cut", default="last")
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--axis", choices=["latency", "energy"], default="latency")
    parser.add_argument("--walks", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--db")
    arguments = parser.parse_args()

    tables = {source: tables_of(arguments, source) for source in arguments.sources.split(",")}
    for source, its in tables.items():
        began = time.process_time()
        limits = Limits().tightened(arguments.axis, arguments.share * its.int8.quantity(arguments.axis))
        found = searcher(arguments).best(its.problem, limits, "loss")
        chosen = {name: found.choices[name] for name in weighted(its.problem)}
        row: dict[str, object] = {"chosen for": source, "cpu s": round(time.process_time() - began, 1)}
        row |= {"loss": found.loss, "plans": found.evaluations, **bits(its.problem, found)}
        for other, there in tables.items():
            share = cost(there.problem, chosen).quantity(arguments.axis) / there.int8.quantity(arguments.axis)
            row[f"of 8 bit on {other}"] = round(share, 4)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
