"""Whether HAQ's agent learns: its walks beside walks whose actions are drawn evenly, same cut, same number.

    python benchmarks/haq_learns.py MODEL.onnx --data CALIB.npz --db FILE [--source measured] [--share 0.8] [--cut last]
        [--walks 200] [--seeds 3]

Losses are those of the best plan of each run, and of the solver's; rewards the means of the last tenth of the walks.
Nothing is timed but, with `--source measured` and a new database, the kernels.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics

from command_line import say

from tvm_mpq.agents.ddpg import learn
from tvm_mpq.errors import InfeasibleError
from tvm_mpq.pipeline.context import open_context
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.tables import build_tables
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.haq import Haq, LayerWalk
from tvm_mpq.select.methods.search import PlanSearcher
from tvm_mpq.select.problem import Limits
from tvm_mpq.select.searcher import IntegerProgram


def drawn(walk: LayerWalk, seed: int) -> None:
    """Every action is drawn evenly; implements `Learn`."""
    rng = random.Random(seed)
    for _ in range(walk.episodes):
        walk.begin()
        for _ in range(walk.steps):
            walk.act(rng.random())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--db", required=True)
    parser.add_argument("--source", default="measured")
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--cut", default="last")
    parser.add_argument("--walks", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    options = Options(
        arguments.model,
        data=arguments.data,
        db=arguments.db,
        latency_source=arguments.source,
        verify_import=False,
        say=say,
    )
    with open_context(options) as context:
        tables = build_tables(context)
    limits = Limits().tightened("latency", arguments.share * tables.int8.latency_us)
    best = IntegerProgram().best(tables.problem, limits, "loss")
    print(json.dumps({"agent": "none: the solver", "loss": best.loss, "gap": best.gap}), flush=True)
    for name, agent in (("drawn", drawn), ("learned", learn)):
        for seed in range(arguments.seeds):
            searcher = PlanSearcher(Haq(agent, cut=arguments.cut, episodes=arguments.walks), Effort(seed))
            try:
                loss = searcher.best(tables.problem, limits, "loss").loss
            except InfeasibleError:
                loss = None
            late = [point.score for point in searcher.trace[-max(1, len(searcher.trace) // 10) :]]
            row = {"agent": name, "seed": seed, "loss": loss, "late reward": round(statistics.mean(late), 4)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
