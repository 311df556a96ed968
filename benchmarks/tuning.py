"""How long tuning takes, how good what it finds is, and what a table measured in part costs and saves.

    taskset -c 0,1 python benchmarks/tuning.py table --db FILE                     a table from nothing, and again
    taskset -c 0,1 python benchmarks/tuning.py layers --db FILE                    the best found against all kernels
    taskset -c 0,1 python benchmarks/tuning.py fraction --db FILE --shared FOLDER  `optimize --measure-fraction`

`table` wants a FILE that does not exist. Each of its two runs is a process of its own, timed from its start to its end,
by the phases that it reports. `layers` takes the table from FILE, tunes for `--minutes` as `tvm-mpq tune` does, and
then measures every family and knob of a few layers, in a copy of FILE; in the end the default, what tuning found and
the best of all are timed in turns, since the least of many noisy times is less than its kernel's own. `fraction` runs
`optimize` twice, each time with a copy of FILE, which may hold other networks' records or not exist; the two networks
are then timed in turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from command_line import say
from networks import material
from predictor import model_path, space_of

from tvm_mpq.costs import measured
from tvm_mpq.costs.measured import look_up, measure_all
from tvm_mpq.costs.profiler import latency_key, tuned_kernel
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.kernels.registry import Kernel, Request, candidates, default_kernel
from tvm_mpq.pipeline import Options
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.optimize import optimize
from tvm_mpq.pipeline.tune import tune
from tvm_mpq.schema import Budget, Conv2dWorkload, LatencyKey
from tvm_mpq.tuning.devices.local_session import LocalSession
from tvm_mpq.tuning.measure import presets
from tvm_mpq.tuning.measure.networks import NetworkJob, measure_networks

PRECISIONS = ("fp32", "w8a8", "w4a8", "w2a4", "w1a4")
TABLE_SEC, AGAIN_SEC, NEAR, PLAN, SHARE = 25 * 60, 20, 0.05, 0.03, 0.40
"""Bars: seconds of a table from nothing and again; excess over the best kernel, and of a plan; share of the time."""

Row = dict[str, Any]


STAGES = {
    "reading": "reading the model",
    "measuring": "latencies",
    "calibrating": "ranges, sensitivity",
    "estimating": "ranges, sensitivity",
    "building": "networks",
    "selecting": "selecting, judging",
    "verifying": "networks",
}
"""First word of what `optimize` says when a stage begins -> the stage."""


class Stages:
    """Seconds by stage, from what work says of itself."""

    def __init__(self, first: str) -> None:
        self.seconds: dict[str, float] = {}
        self._now, self._start = first, time.perf_counter()

    def say(self, text: str) -> None:
        """A message: it may begin a stage."""
        say(text)
        self.close(self._now)
        self._now = STAGES.get(text.split(" ")[0], self._now)

    def progress(self, _done: int, _total: int, what: str) -> None:
        """A part of something was done, since the one before."""
        self.close(what)

    def close(self, name: str) -> None:
        """What has passed belongs to `name`."""
        passed, self._start = time.perf_counter() - self._start, time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + passed


def in_process(work: Callable[..., Row], *given: Any) -> Row:
    """Do it in a process of its own; `seconds` is its whole time, importing included."""
    start = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        row = pool.submit(work, *given).result()
    return {"seconds": time.perf_counter() - start, **row}


def fill(model: Path, db: Path, threads: int) -> Row:
    """The complete table of a network's kernels and boundaries."""
    stages = Stages("reading the model")
    options = Options(model, precisions=PRECISIONS, db=db, threads=threads, progress=stages.progress)
    with open_context(options) as context:
        requests, profiler = space_of(context).requests(), context.profiler()
        stages.close("reading the model")
        table = measured.fill(profiler, requests)
        stages.close("the rest")
        offered = sorted({label for node in context.prepared.graph.weighted() for label in node.candidates})
        return {"entries": table.entries, "offered": offered, "stages": stages.seconds, "device": context.device.key}


def table(options: argparse.Namespace) -> Row:
    """Time of a table from nothing, and of the same again."""
    if options.db.exists():
        raise SystemExit(f"`table` starts from nothing, and {options.db} exists")
    model = model_path(options.network, options.shared, options.db.parent)
    first, again = (in_process(fill, model, options.db, options.threads) for _ in range(2))
    print(f"{options.network} on {first['device']}, precisions {', '.join(first['offered'])}")
    for title, row, bar in (("from nothing", first, TABLE_SEC), ("again", again, AGAIN_SEC)):
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in row["stages"].items() if seconds >= 0.5)
        met = row["seconds"] <= bar and (row is first or not row["entries"]["measured"])
        counts = ", ".join(f"{count} {name}" for name, count in row["entries"].items())
        print(f"{title}: {row['seconds']:.0f} s ({parts}); {counts}; bar {bar} s: {'met' if met else 'NOT met'}")
    return {"first": first, "again": again}


def sample(context: RunContext, count: int, seed: int) -> list[Request]:
    """Layers at precisions drawn in turn, so that all families are among them."""
    rng = np.random.default_rng(seed)
    asked = [r for r in space_of(context).requests() if isinstance(r.workload, Conv2dWorkload)]
    found = []
    for label in rng.permutation(PRECISIONS)[np.arange(count) % len(PRECISIONS)]:
        found.append(asked.pop(int(rng.choice([i for i, r in enumerate(asked) if str(r.precision) == label]))))
    return found


def exhaust(context: RunContext, request: Request, found: Kernel) -> Row:
    """Measure every kernel for a request; then the default, the one found and the best few in turns."""
    profiler, target = context.profiler(), context.prepared.row.name
    every = {latency_key(kernel, target): kernel for kernel in candidates(request)}
    lasting = LatencyTable(target)
    measure_all(profiler, lasting, look_up(profiler, lasting, [request], every_candidate=True))
    where = (request.workload.key, str(request.precision), request.out_bits, target, context.device.key)
    best = [every[r.key] for r in profiler.db.fastest(*where) if r.key in every][:3]
    final = {latency_key(kernel, target): kernel for kernel in (default_kernel(request), found, *best)}
    careful = dataclasses.replace(profiler, settings=dataclasses.replace(presets.KERNELS, repeats=15, group=len(final)))
    times: dict[LatencyKey, float] = {}
    for record in careful.measure({key: profiler.store.source(kernel) for key, kernel in final.items()}):
        times[record.key] = math.inf if record.median_us is None else record.median_us
    default_us, found_us = (times[latency_key(k, target)] for k in (default_kernel(request), found))
    least = min(times.values())
    return {
        "request": request.key,
        "kernels": len(every),
        "refused": len(lasting.refused),
        "best_us": least,
        "default": default_us / least - 1,
        "found": found_us / least - 1,
    }


def layers(options: argparse.Namespace) -> Row:
    """Tune, then compare with all there is on some layers."""
    model = model_path(options.network, options.shared, options.db.parent)
    asked = Options(model, precisions=PRECISIONS, db=options.db, threads=options.threads, say=say)
    tuned = tune(asked, minutes=options.minutes)
    print(f"tuning: {tuned['trials']} trials in {tuned['seconds']:.0f} s, since {tuned['ended']}")
    with open_context(asked) as context:
        profiler = context.profiler()
        sampled = sample(context, options.layers, options.seed)
        found = [tuned_kernel(profiler, request) or default_kernel(request) for request in sampled]
    rows = []
    with tempfile.TemporaryDirectory(dir=options.db.parent) as folder:
        copy = copied(options.db, Path(folder))
        with open_context(dataclasses.replace(asked, db=copy)) as context:
            for request, kernel in zip(sampled, found, strict=True):
                rows.append(exhaust(context, request, kernel))
                row = rows[-1]
                print(
                    f"{row['request']}: best of {row['kernels']} {row['best_us']:.2f} us; "
                    f"default {row['default']:+.1%}, found {row['found']:+.1%}",
                    flush=True,
                )
    worst = max(row["found"] for row in rows)
    print(f"the best found within {worst:.1%} of the best there is (bar {NEAR:.0%}): {verdict(worst <= NEAR)}")
    return {"tuned": tuned, "layers": rows}


def copied(db: Path, folder: Path) -> Path:
    """A copy of a latency database; a name for a new one where there is none."""
    copy = folder / db.name
    if db.exists():
        shutil.copy2(db, copy)  # nobody writes to it now, so the log beside it is empty
    return copy


def plan(model: Path, data: Path, db: Path, out: Path, share: float, drop: float) -> Row:
    """`optimize` with the clock running."""
    stages, parts = Stages("reading the model"), Stages("")
    budget, arrays = Budget(max_drop=drop), np.load(data)
    result = optimize(
        Options(
            model, data=arrays, budget=budget, db=db, measure_fraction=share, say=stages.say, progress=parts.progress
        )
    )
    stages.close("networks")
    result.save(out)
    return {
        "stages": stages.seconds,
        "parts": parts.seconds,
        "entries": result.report["latency_entries"],
        "plan": result.report["plan"],
    }


def fraction(options: argparse.Namespace) -> Row:
    """Plans from a table measured in part and from one measured in full."""
    given = material(options.network, options.shared, options.db.parent / "images", 128, 4, False)
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(dir=options.db.parent) as name:
        folder = Path(name)
        for label, share in (("part", options.fraction), ("full", 1.0)):
            (folder / label).mkdir()
            out = folder / f"{label}.out"
            db = copied(options.db, folder / label)
            rows[label] = in_process(plan, given.onnx, given.calibration, db, out, share, options.max_drop)
        jobs = [NetworkJob(folder / f"{label}.out" / "model.so", [np.load(given.check)[:1]]) for label in rows]
        with LocalSession() as session:
            times = measure_networks(session, jobs, dataclasses.replace(presets.KERNELS, repeats=21))
    for (label, row), found in zip(rows.items(), times, strict=True):
        row["network_us"] = found.median_us
        parts = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in row["stages"].items())
        counts = ", ".join(f"{count} {name}" for name, count in row["entries"].items())
        print(f"{label}: network {found.median_us:.1f} us; {row['seconds']:.0f} s ({parts}); {counts}")
    part, full = rows["part"], rows["full"]
    excess = part["network_us"] / full["network_us"] - 1
    latencies = part["stages"]["latencies"] / full["stages"]["latencies"]
    print(
        f"plan {excess:+.1%} (bar {PLAN:.0%}): {verdict(excess <= PLAN)}; time of the latency table {latencies:.0%}",
        end="",
    )
    print(f" (bar {SHARE:.0%}): {verdict(latencies <= SHARE)}; time in all {part['seconds'] / full['seconds']:.0%}")
    return rows


def verdict(met: bool) -> str:
    return "met" if met else "NOT met"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs: dict[str, Callable[[argparse.Namespace], Row]] = {"table": table, "layers": layers, "fraction": fraction}
    parser.add_argument("job", choices=jobs)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--shared", type=Path, help="folder of the trained networks' files")
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0, help="layers: for tuning")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fraction", type=float, default=0.3)
    parser.add_argument("--max-drop", type=float, default=1.0, help="fraction: accuracy points the plans may lose")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = jobs[options.job](options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
