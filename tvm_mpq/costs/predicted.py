"""A latency table of which only a part is measured: the most informative entries; the others are predicted.

Every prediction is stored with its stated error and counts as predicted wherever it is used. A stored one stays until a
predictor states half its error, so that a repeated run finds the table it left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm

from tvm_mpq.costs.measured import complete, fill, look_up, measure_all
from tvm_mpq.costs.profiler import KernelProfiler, current_kernel
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.kernels.registry import Kernel, Request
from tvm_mpq.schema import LatencyKey, LatencyRecord
from tvm_mpq.targets import TargetRow
from tvm_mpq.tuning.database.results import ResultStore
from tvm_mpq.tuning.predictor import Entry, MachineFacts, Prediction, Predictor, most_informative

UP_FRONT = 0.75
"""Share of the measurements that are spent before planning; the others are left for the entries of the chosen plan."""

REFUSED_AT_ONCE = 1 / 3
"""Share of what the predictor refuses that is measured before it is asked again: one entry often vouches for others."""

BETTER = 0.5
"""A new prediction replaces a stored one when its stated error is smaller than this share of the stored one's."""


Say = Callable[[str], None]


def fill_partly(
    profiler: KernelProfiler, requests: Sequence[Request], row: TargetRow, fraction: float, say: Say
) -> LatencyTable:
    """A table with an entry for each request: what the database lacks is measured in part and predicted in part.

    Parameters
    ----------
    fraction
        Share of the missing entries to measure, in (0, 1]: `UP_FRONT` of it here, the rest when a plan is chosen.
        Entries that the predictor refuses are measured on top.

    Raises
    ------
    MeasurementError
        As `measured.fill`.
    """
    if fraction >= 1:
        return fill(profiler, requests)
    table = LatencyTable(profiler.target)
    missing = look_up(profiler, table, requests)
    if missing:
        machine = MachineFacts.of(row, requests[0].threads)
        old = {key: profiler.known(key, profiler.version(kernel), "predicted") for key, kernel in missing.items()}
        foretold = {key: record for key, record in old.items() if record is not None}
        new = [key for key in missing if key not in foretold]
        entries, times = measurements(profiler, machine)
        taken = most_informative(entries, [Entry(key, machine) for key in new], UP_FRONT * fraction)
        chosen = {new[i]: missing[new[i]] for i in taken}
        rest = {key: kernel for key, kernel in missing.items() if key not in chosen}
        measure_all(profiler, table, chosen)
        while rest:
            fresh = {r.key: r.median_us for r in table.records.values() if r.key in missing and r.median_us}
            known = [*entries, *(Entry(key, machine) for key in fresh)]
            predictor = Predictor(known, [*times, *fresh.values()])
            asked = [Entry(key, machine) for key in rest]
            reasons = dict(zip(rest, predictor.refusals(asked), strict=True))
            if not any(reasons.values()):
                found = dict(zip(rest, predictor.predict(asked), strict=True))
                reasons = {key: prediction.refused for key, prediction in found.items()}
            refused = [entry for entry in asked if reasons[entry.key] is not None]
            if not refused:
                say(f"predicting {len(rest)} latencies: {predictor.held_out}")
                table.predictor = predictor.held_out.to_json()
                ResultStore(profiler.db).put("predictor", f"{profiler.device.key}|{profiler.target}", table.predictor)
                for key, kernel in rest.items():
                    table.offer(kernel, _kept(profiler, foretold.get(key), key, kernel, found[key]))
                break
            more = [refused[i].key for i in most_informative(known, refused, REFUSED_AT_ONCE)]
            for key in more:
                say(f"measured, for it cannot be predicted: {rest[key].request.key}: {reasons[key]}")
            measure_all(profiler, table, {key: rest.pop(key) for key in more})
    complete(table, requests)
    return table


def _kept(
    profiler: KernelProfiler, old: LatencyRecord | None, key: LatencyKey, kernel: Kernel, prediction: Prediction
) -> LatencyRecord:
    """The stored prediction, or the new one, which is stored, where it is clearly better."""
    if old is not None and old.stated_error is not None and prediction.stated_error >= BETTER * old.stated_error:
        return old
    record = profiler.prediction(key, kernel, prediction.median_us, prediction.stated_error)
    profiler.db.put(record, replace=True)
    return record


def measurements(profiler: KernelProfiler, machine: MachineFacts) -> tuple[list[Entry], list[float]]:
    """Entries and microseconds of what this device measured, of code that is still what would be compiled."""
    entries, times = [], []
    for record in profiler.db.records(
        failures=False,
        device=profiler.device.key,
        target=profiler.target,
        provenance="measured",
        tvm_version=tvm.__version__,
    ):
        entry = Entry(record.key, machine)
        if (
            record.median_us
            and entry.predictable
            and current_kernel(profiler, entry.kernel.request, record) is not None
        ):
            entries.append(entry)
            times.append(record.median_us)
    return entries, times
