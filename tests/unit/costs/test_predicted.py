"""Tables that are measured in part: what is measured, predicted, stored and counted. Nothing is compiled here."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tvm

from tvm_mpq import targets
from tvm_mpq.costs import measured
from tvm_mpq.costs import predicted as estimate
from tvm_mpq.costs.measured import complete
from tvm_mpq.costs.profiler import KernelProfiler
from tvm_mpq.costs.source import LatencySource, MeasuredLatencies, PredictedLatencies
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.errors import MeasurementError
from tvm_mpq.kernels.registry import Kernel, Request
from tvm_mpq.schema import FP32, W8A8, AddWorkload, Conv2dWorkload, DeviceIdentity, LatencyKey, LatencyRecord
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.measure import presets
from tvm_mpq.tuning.predictor import Entry, MachineFacts
from tvm_mpq.tuning.predictor.law import columns

ROW = targets.resolve("znver4")
FEATURES = targets.features(ROW)
MACHINE = MachineFacts.of(ROW)


def requests() -> list[Request]:
    """60 convolutions at two precisions, and one lonely addition that cannot be predicted."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(30):
        size, (ci, co) = int(rng.integers(6, 40)), (int(c) for c in rng.integers(16, 200, 2))
        w = Conv2dWorkload(1, size, size, ci, co, (3, 3), padding=(1, 1, 1, 1))
        found += [Request(w, W8A8, 8, FEATURES), Request(w, FP32, 32, FEATURES)]
    return [*found, Request(AddWorkload((1, 8, 8, 64)), W8A8, 8, FEATURES)]


def us(key: LatencyKey) -> float:
    """What the law of the predictor says, within half a per cent: no measurement meets a law exactly."""
    noise = zlib.crc32(repr(key).encode()) / 2**32 - 0.5
    return float(columns([Entry(key, MACHINE)]).sum()) * (1 + 0.01 * noise)


class Lab:
    """A database, kernels whose version is `code`, and a stop watch that invents times."""

    def __init__(self, path: Path) -> None:
        self.db = LatencyDatabase(path)
        self.code = "v1"
        self.factor = 1.0
        self.broken: set[str] = set()
        self.said: list[str] = []
        self.order: list[str] = []
        device = DeviceIdentity("cpu", "znver4", (), 1, 1)
        store: Any = SimpleNamespace(source=self.source)
        self.profiler = KernelProfiler("znver4", device, store, self.db, None, presets.KERNELS)  # type: ignore[arg-type]

    def source(self, kernel: Kernel) -> Any:
        return SimpleNamespace(version=self.code)

    def measure_all(self, profiler: Any, table: LatencyTable, kernels: dict[LatencyKey, Kernel]) -> None:
        for key, kernel in kernels.items():
            self.order.append(kernel.request.key)
            failure = "wrong integers" if kernel.request.key in self.broken else None
            time = None if failure else us(key) * self.factor
            record = LatencyRecord(
                *(
                    key,
                    profiler.device.key,
                    tvm.__version__,
                    self.code,
                    time,
                    None,
                    7,
                    "2026-01-01T00:00:00",
                    "measured",
                ),
                failure=failure,
            )
            self.db.put(record)
            table.measured += failure is None
            table.offer(kernel, record)

    def fill(self, fraction: float, wanted: list[Request] | None = None) -> LatencyTable:
        self.order = []
        return estimate.fill_partly(self.profiler, wanted or requests(), ROW, fraction, self.said.append)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab(tmp_path / "l.db")
    monkeypatch.setattr(estimate, "measure_all", made.measure_all)
    monkeypatch.setattr(measured, "measure_all", made.measure_all)
    with made.db:
        yield made


def test_counts_are_true(lab: Lab) -> None:
    table = lab.fill(0.5)
    assert table.entries == {"measured": 23, "predicted": 38, "cached": 0}
    assert len(lab.order) == len(set(lab.order)) == 23
    stored = list(lab.db.records(provenance="predicted"))
    assert len(stored) == 38 and lab.db.stats().measured == 23
    assert all(r.stated_error is not None and 0 < r.stated_error < 1 and r.kernel_version == "v1" for r in stored)
    assert any("held-out error" in text for text in lab.said)


def test_predictions_are_near_and_marked(lab: Lab) -> None:
    table = lab.fill(0.5)
    for record in table.records.values():
        assert record.median_us == pytest.approx(us(record.key), rel=0.5 if record.provenance == "predicted" else 1e-9)
    assert {r.key for r in lab.db.records(provenance="predicted")} == set(table.predicted())


def test_what_cannot_be_predicted_is_measured_and_said(lab: Lab) -> None:
    table = lab.fill(0.1)
    lonely = requests()[-1]
    assert table.records[lonely.key].provenance == "measured"
    measured = {r.key for r in requests()} & set(lab.order)
    assert len(measured) + len(table.predicted()) == 61 and len(lab.order) >= 5


def test_a_second_run_measures_nothing_and_finds_the_same(lab: Lab) -> None:
    first, second = lab.fill(0.5), lab.fill(0.5)
    assert second.entries == {"measured": 0, "predicted": 38, "cached": 23} and not lab.order
    assert {k: r.median_us for k, r in second.records.items()} == {k: r.median_us for k, r in first.records.items()}


def test_a_full_run_measures_what_was_predicted(lab: Lab) -> None:
    lab.fill(0.5)
    table = lab.fill(1.0)
    assert table.entries == {"measured": 38, "predicted": 0, "cached": 23}
    assert lab.fill(0.5).entries == {"measured": 0, "predicted": 0, "cached": 61}


def test_a_better_prediction_replaces_a_stored_one(lab: Lab) -> None:
    lab.fill(0.5)
    old = next(iter(lab.db.records(provenance="predicted")))
    vague = dataclasses.replace(old, median_us=12345.0, stated_error=9.0, measured_at="2099-01-01T00:00:00+00:00")
    lab.db.put(vague)
    table = lab.fill(0.5)
    assert next(r for r in table.records.values() if r.key == old.key).median_us == pytest.approx(old.median_us)


def test_times_of_old_code_are_neither_used_nor_learned(lab: Lab) -> None:
    lab.factor = 100.0
    lab.fill(1.0)
    lab.code, lab.factor = "v2", 1.0
    table = lab.fill(0.5)
    assert table.entries == {"measured": 23, "predicted": 38, "cached": 0}
    assert all(r.median_us == pytest.approx(us(r.key), rel=0.5) for r in table.records.values())


def test_measurements_of_other_networks_teach(lab: Lab) -> None:
    """With half of the shapes known, few of the others need measuring."""
    wanted = requests()
    lab.fill(1.0, wanted[:40])
    table = lab.fill(0.1, wanted[40:])
    assert table.entries["predicted"] >= 17 and table.entries["cached"] == 0


def test_a_kernel_that_fails_is_never_predicted(lab: Lab) -> None:
    lab.fill(0.5)
    lab.broken = {lab.order[5]}
    lab.code = "v2"
    with pytest.raises(MeasurementError, match="wrong integers"):
        lab.fill(0.5)


def test_a_failed_measurement_takes_a_prediction_back(lab: Lab) -> None:
    table = lab.fill(0.5)
    kernels = table.predicted()
    key, kernel = next(iter(kernels.items()))
    lab.broken = {kernel.request.key}
    lab.measure_all(lab.profiler, table, {key: kernel})
    table.forget_predictions([kernel])
    with pytest.raises(MeasurementError, match="wrong integers"):
        complete(table, [kernel.request])


def test_a_measurement_takes_its_predictions_place_though_slower(lab: Lab) -> None:
    table = lab.fill(0.5)
    key, kernel = next(iter(table.predicted().items()))
    lab.factor = 3.0
    lab.measure_all(lab.profiler, table, {key: kernel})
    assert table.latency_us(kernel.request) == pytest.approx(3 * us(key))
    assert table.entries["predicted"] == 37


def test_hope_makes_predictions_faster_and_measurements_not(lab: Lab) -> None:
    table = lab.fill(0.5)
    for request in requests():
        record = table.records[request.key]
        if record.provenance == "predicted":
            record = table.records[request.key] = dataclasses.replace(record, stated_error=1.0)
        ratio = table.optimistic_us(request) / table.latency_us(request)
        assert ratio == (1.0 if record.provenance == "measured" else pytest.approx(0.8123, abs=1e-4))  # 2^-0.3


def test_predictions_of_old_code_are_made_anew(lab: Lab) -> None:
    lab.fill(0.5)
    lab.code = "v2"
    assert lab.fill(0.5).entries == {"measured": 23, "predicted": 38, "cached": 0}
    assert {r.kernel_version for r in lab.db.records(provenance="predicted")} == {"v2"}


def test_some_refused_entries_vouch_for_the_others(lab: Lab) -> None:
    """Of nine additions one is measured up front, too few to predict any; a few more, and the rest is predicted."""
    adds = [Request(AddWorkload((1, 8 + i, 8, 64)), W8A8, 8, FEATURES) for i in range(9)]
    table = lab.fill(0.2, [*requests()[:-1], *adds])
    provenance = [table.records[r.key].provenance for r in adds]
    assert provenance.count("predicted") >= 4 and provenance.count("measured") >= 2


def test_a_source_of_each_kind_fills_the_table(lab: Lab) -> None:
    sources: list[LatencySource] = [
        PredictedLatencies(lab.profiler, ROW, 0.5, lab.said.append),
        MeasuredLatencies(lab.profiler),
    ]
    partly, fully = (source.table(requests()) for source in sources)
    assert partly.entries == {"measured": 23, "predicted": 38, "cached": 0}
    assert fully.entries == {"measured": 38, "predicted": 0, "cached": 23}
    assert any("held-out error" in text for text in lab.said)
