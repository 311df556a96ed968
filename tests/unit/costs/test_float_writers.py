"""Kernels that write floats where bytes would do, which wait for a plan that runs them."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from tvm_mpq import targets
from tvm_mpq.costs.float_writers import LEAST_SHARE, STATED_ERROR, estimate, may_wait, twins
from tvm_mpq.costs.profiler import KernelProfiler, latency_key
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.kernels.registry import Request, default_kernel
from tvm_mpq.schema import FLOAT_BITS, FP32, W4A8, W8A8, Conv2dWorkload, LatencyRecord

FEATURES = targets.features(targets.resolve("haswell"))
CONV = Conv2dWorkload(1, 8, 8, 16, 16, (3, 3), (1, 1), (1, 1, 1, 1))
WRITER = Request(CONV, W4A8, FLOAT_BITS, FEATURES)
PROFILER: Any = SimpleNamespace(device=SimpleNamespace(key="this"), version=lambda kernel: "v")
PROFILER.prediction = partial(KernelProfiler.prediction, PROFILER)


def table_of(times: dict[Request, float]) -> LatencyTable:
    table = LatencyTable("haswell")
    for request, us in times.items():
        kernel = default_kernel(request)
        record = LatencyRecord(latency_key(kernel, "haswell"), "this", "0", "v", us, 0.1, 7, "2026-01-01", "measured")
        table.offer(kernel, record)
    return table


@pytest.mark.parametrize(
    ("own", "wide", "wide_bytes", "wanted"),
    [(100.0, 230.0, 200.0, 130.0), (100.0, 190.0, 200.0, 90.0), (100.0, 100.0, 400.0, LEAST_SHARE * 100.0)],
)
def test_floats_cost_beyond_bytes_what_they_cost_at_8_bits_and_some_more(
    own: float, wide: float, wide_bytes: float, wanted: float
) -> None:
    table = table_of(dict(zip(twins(WRITER), (own, wide, wide_bytes), strict=True)))
    kernel = default_kernel(WRITER)
    key = latency_key(kernel, "haswell")
    assert estimate(PROFILER, table, {key: kernel}) == {}
    assert table.latency_us(WRITER) == pytest.approx((1 + STATED_ERROR) * wanted)
    assert list(table.predicted()) == [key] and table.records[WRITER.key].stated_error


@pytest.mark.parametrize("absent", range(3))
def test_where_a_twin_has_no_time_it_is_measured(absent: int) -> None:
    times = {twin: 10.0 for i, twin in enumerate(twins(WRITER)) if i != absent}
    table = table_of(times)
    kernel = default_kernel(WRITER)
    waiting = {latency_key(kernel, "haswell"): kernel}
    assert estimate(PROFILER, table, waiting) == waiting
    assert math.isinf(table.latency_us(WRITER)) and not table.predicted()


def test_only_integers_of_few_bits_that_write_floats_may_wait() -> None:
    offered = {request.key for request in (WRITER, *twins(WRITER))}
    assert may_wait(WRITER, offered)
    assert not may_wait(dataclasses.replace(WRITER, out_bits=8), offered)
    for precision in (W8A8, FP32):
        other = dataclasses.replace(WRITER, precision=precision)
        assert not may_wait(other, {*offered, *(t.key for t in twins(other))})
    for twin in twins(WRITER):
        assert not may_wait(WRITER, offered - {twin.key})
