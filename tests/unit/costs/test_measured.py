"""Which failures are measured again: those of a busy machine, whatever their words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from tvm_mpq import targets
from tvm_mpq.costs import measured
from tvm_mpq.costs.profiler import latency_key
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.errors import MeasurementError
from tvm_mpq.kernels.registry import Kernel, Request, default_kernel
from tvm_mpq.schema import W8A8, AddWorkload, FailureKind, LatencyKey, LatencyRecord

FEATURES = targets.features(targets.resolve("znver4"))
KERNEL = default_kernel(Request(AddWorkload((1, 8, 8, 64)), W8A8, 8, FEATURES))
KEY = LatencyKey("w", "-", 8, "f", "{}", "t")


class FailingProfiler:
    """Answers every measurement with one kind of failure, until `calm` rounds are over."""

    store = SimpleNamespace(source=lambda kernel: kernel)

    def __init__(self, kind: FailureKind, reason: str, calm: int) -> None:
        self.kind, self.reason, self.calm, self.rounds = kind, reason, calm, 0

    def measure(self, items: Mapping[LatencyKey, Any]) -> Iterator[LatencyRecord]:
        self.rounds += bool(items)
        for key in items:
            rest = ("d", "0", "v")
            if self.rounds > self.calm:
                yield LatencyRecord(key, *rest, 5.0, 0.1, 7, "2026-01-01", "measured")
            else:
                failure: dict[str, Any] = {"failure": self.reason, "failure_kind": self.kind}
                yield LatencyRecord(key, *rest, None, None, 0, "2026-01-01", "measured", **failure)


def measure(profiler: FailingProfiler, monkeypatch: pytest.MonkeyPatch) -> LatencyTable:
    monkeypatch.setattr(measured, "_verified", lambda profiler, table, kernels: kernels)
    table = LatencyTable("t")
    kernels: dict[LatencyKey, Kernel] = {KEY: KERNEL}
    measured.measure_all(profiler, table, kernels)  # type: ignore[arg-type]
    return table


@pytest.mark.parametrize("kind", FailureKind)
def test_only_failures_of_the_machine_are_tried_again(kind: FailureKind, monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = FailingProfiler(kind, "noisy words: it drifts", calm=2)
    table = measure(profiler, monkeypatch)
    again = kind in (FailureKind.NOISE, FailureKind.DRIFT)
    assert profiler.rounds == (3 if again else 1)
    assert table.measured == again
    assert [r.failure_kind for r in table.refused] == [kind] * (2 if again else 1)


def test_it_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = FailingProfiler(FailureKind.NOISE, "in other words", calm=100)
    assert measure(profiler, monkeypatch).measured == 0
    assert profiler.rounds == 1 + measured.NOISE_RETRIES


@pytest.mark.parametrize("kind", FailureKind)
def test_what_is_missing_is_named_with_its_own_reason_and_how_to_mend_it(kind: FailureKind) -> None:
    """Another precision of the same workload failed for another reason; only a busy machine is worth another try."""
    key = latency_key(KERNEL, "t")
    other = dataclasses.replace(key, out_bits=32)
    table = LatencyTable("t")
    for refused, why in ((other, "other words"), (key, "own words")):
        rest: dict[str, Any] = {"failure": why, "failure_kind": kind}
        table.refused.append(LatencyRecord(refused, "d", "0", "v", None, None, 0, "2026-01-01", "measured", **rest))
    with pytest.raises(MeasurementError) as caught:
        measured.complete(table, [KERNEL.request])
    text = str(caught.value)
    assert "own words" in text and "other words" not in text
    assert ("when the machine is quieter" in text) == kind.is_machines
