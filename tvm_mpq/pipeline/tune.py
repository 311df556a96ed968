"""Search the knob spaces of a network's kernels on the device, most promising candidate first, within a budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from tvm_mpq.costs.measured import fill, measure_all
from tvm_mpq.costs.profiler import KernelProfiler, latency_key
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.registry import Kernel, Request, candidates
from tvm_mpq.pipeline.context import RunContext, open_context
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.problem import Space
from tvm_mpq.report.answers import TunedKernel, TuneReport
from tvm_mpq.schema import LatencyKey
from tvm_mpq.tuning.predictor.entry import MachineFacts
from tvm_mpq.tuning.predictor.ranking import Candidate, Ranking, Slot, slot_of

BATCH = 16
"""Candidates compiled and measured between two rankings."""

LEAST_GAIN = 0.002
"""Tuning ends when a whole batch is expected to save less than this share of the network's time."""


def tune(options: Options, *, trials: int | None = None, minutes: float | None = None) -> TuneReport:
    """Measure default kernels, then candidates of other knobs, until no gain is expected or the budget is used.

    What is found stays in the database, where `optimize`, `search` and `build` find it; an interrupted run goes on.

    Parameters
    ----------
    trials
        Candidates to measure at most, the defaults not counted; None = no limit.
    minutes
        No new batch is begun after this time; None = no limit.

    Raises
    ------
    InvalidValueError
        If a limit is not above 0.
    MeasurementError
        If an operator is left without any kernel that could be measured.
    """
    for name, value in (("trials", trials), ("minutes", minutes)):
        if value is not None and not value > 0:
            raise InvalidValueError(f"{name} must be above 0 (got {value:g})")
    with open_context(options) as context:
        return _tune(context, trials, minutes)


def _tune(context: RunContext, trials: int | None, minutes: float | None) -> TuneReport:
    start, options = time.monotonic(), context.options
    space = Space(context.prepared.graph, context.prepared.features, context.prepared.threads)
    profiler = context.profiler()
    options.tell("measuring default kernels")
    requests = space.requests()
    table = fill(profiler, requests)
    work = _Work(context, profiler, table, requests, _uses(space))
    before_us, done, reason = work.network_us(), 0, ""
    while not reason:
        if trials is not None and done >= trials:
            reason = f"{trials} trials were measured"
        elif minutes is not None and time.monotonic() - start > 60 * minutes:
            reason = f"{minutes:g} minutes are over"
        elif not work.left:
            reason = "every candidate was measured"
        else:
            batch = work.next_batch(BATCH if trials is None else min(BATCH, trials - done))
            if not batch:
                reason = f"no batch of candidates is expected to save {LEAST_GAIN:.1%} of the network's time"
            else:
                so_far = f"{done} candidates measured, {work.left} left"
                options.tell(f"tuning: {so_far}, sum of best times {work.network_us() / 1000:.3f} ms")
                work.measure(batch)
                done += len(batch)
    return {
        "model": context.prepared.loaded.name,
        "target": context.prepared.row.name,
        "device": context.device.key,
        "trials": done,
        "candidates_left": work.left,
        "ended": reason,
        "seconds": time.monotonic() - start,
        "sum_ms": {"before": before_us / 1000, "after": work.network_us() / 1000},
        "tuned": work.improvements(),
        "latency_entries": table.entries,
        **context.condition(),
    }


class _Work:
    """Candidates that are left, and what is known of the others."""

    def __init__(
        self,
        context: RunContext,
        profiler: KernelProfiler,
        table: LatencyTable,
        requests: Sequence[Request],
        uses: Mapping[str, int],
    ) -> None:
        self._profiler, self._table, self._requests, self._uses = profiler, table, requests, uses
        self._machine = MachineFacts.of(context.prepared.row, context.prepared.threads)
        self._open: dict[LatencyKey, tuple[Candidate, Kernel]] = {}
        self._measured: dict[LatencyKey, float] = {}
        self._default_us: dict[Slot, float] = {}
        for request in requests:
            self._sort(request)

    def _sort(self, request: Request) -> None:
        found = {
            (r.key.family, r.key.knobs): r
            for r in self._profiler.db.records(
                workload=request.workload.key,
                precision=str(request.precision),
                out_bits=request.out_bits,
                target=self._profiler.target,
                device=self._profiler.device.key,
                provenance="measured",
            )
        }
        for index, kernel in enumerate(candidates(request)):
            key = latency_key(kernel, self._profiler.target)
            record = found.get((key.family, key.knobs))
            if record is None or record.kernel_version != self._profiler.version(kernel):
                self._open[key] = Candidate(key, index, self._uses.get(request.key, 1)), kernel
            elif record.median_us is not None:
                self._learn(key, record.median_us, index)

    def _learn(self, key: LatencyKey, us: float, index: int) -> None:
        self._measured[key] = us
        if index == 0:
            self._default_us[slot_of(key)] = us

    @property
    def left(self) -> int:
        return len(self._open)

    def next_batch(self, size: int) -> dict[LatencyKey, Kernel]:
        """The candidates that are expected to save most; none when together they would save too little."""
        best = {slot_of(r.key): r.median_us for r in self._table.records.values() if r.median_us is not None}
        trials = [trial for trial, _ in self._open.values() if slot_of(trial.key) in best]
        gains = Ranking(self._measured.items(), self._default_us, self._machine).gains(trials, best)
        order = sorted(range(len(trials)), key=lambda i: -gains[i])[:size]
        if sum(gains[i] for i in order) < LEAST_GAIN * self.network_us():
            return {}
        return {trials[i].key: self._open[trials[i].key][1] for i in order}

    def measure(self, batch: dict[LatencyKey, Kernel]) -> None:
        measure_all(self._profiler, self._table, batch)
        for key in batch:
            trial, kernel = self._open.pop(key)
            record = self._profiler.known(key, self._profiler.version(kernel))
            if record is not None and record.median_us is not None:
                self._learn(key, record.median_us, trial.index)

    def network_us(self) -> float:
        """The best known times of all requests, each as often as the network may use it."""
        return sum(self._uses.get(r.key, 1) * self._table.latency_us(r) for r in self._requests)

    def improvements(self) -> list[TunedKernel]:
        """Requests whose best kernel is not their default, greatest gain first."""
        found: list[TunedKernel] = []
        for request in self._requests:
            kernel, us = self._table.kernel(request), self._table.latency_us(request)
            key = latency_key(kernel, self._profiler.target)
            default_us = self._default_us.get(slot_of(key))
            if default_us is not None and us < default_us:
                found.append(
                    {
                        "workload": request.workload.key,
                        "precision": str(request.precision),
                        "out_bits": request.out_bits,
                        "default_us": default_us,
                        "best_us": us,
                        "family": kernel.family.name,
                        "knobs": dict(kernel.knobs),
                        "uses": self._uses.get(request.key, 1),
                    }
                )
        return sorted(found, key=lambda row: -row["uses"] * (row["default_us"] - row["best_us"]))


def _uses(space: Space) -> Counter[str]:
    """Request key -> how many operators of the network it may serve."""
    return Counter(request.key for node in space.graph.nodes for request in space.node_requests(node))
