"""Measuring kernels: interleaved, honest, and stopped by nothing a kernel does."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.schema import LatencyKey
from tvm_mpq.tuning.devices.baseline import SpeedBaseline
from tvm_mpq.tuning.devices.local_session import LocalSession
from tvm_mpq.tuning.devices.sentinel import build_sentinel
from tvm_mpq.tuning.measure.kernels import KernelJob, MeasureSettings, measure

KEY = LatencyKey("w", "-", 32, "f", "{}", "t")
# Other tests may share the cores: these settings accept nearly anything.
EASY = MeasureSettings(repeats=5, min_repeat_ms=1, max_relative_iqr=5.0, max_drift=20.0, timeout_sec=1.0)
ARGS = (np.zeros(64, np.float32), np.zeros(64, np.float32))


@pytest.fixture(scope="module")
def sentinel():
    return build_sentinel()


def jobs(library, *names, args=ARGS):
    return [KernelJob(dataclasses.replace(KEY, workload=name), library, name, args) for name in names]


def take(session, list_of_jobs, sentinel, settings=EASY, **options):
    found = list(
        measure(session, list_of_jobs, settings, device="dev", kernel_version="7", sentinel=sentinel, **options)
    )
    assert [r.key for r in found] == [j.key for j in list_of_jobs]
    return found


def test_records_are_complete_and_in_order(session, library, sentinel):
    calls = []
    settings = dataclasses.replace(EASY, group=2)
    names = ["short", "long", "double"]
    found = take(session, jobs(library, *names), sentinel, settings, progress=lambda *a: calls.append(a))
    assert calls == [(1, 3, "short"), (2, 3, "long"), (3, 3, "double")]
    for record in found:
        assert record.failure is None
        assert (record.device, record.kernel_version, record.provenance) == ("dev", "7", "measured")
        assert record.repeats == 5
        assert record.tvm_version
    assert 1.4 < found[1].median_us / found[0].median_us < 2.8
    assert found[2].median_us < found[0].median_us


def test_a_crash_or_hang_costs_only_its_own_job(library, sentinel):
    names = ["short", "crash", "long", "hang", "double"]
    with LocalSession() as session:
        found = {r.key.workload: r for r in take(session, jobs(library, *names), sentinel)}
    assert "SIGSEGV" in found["crash"].failure
    assert "no answer within 1 s" in found["hang"].failure
    assert found["crash"].median_us is None
    for name in ("short", "long", "double"):
        assert found[name].failure is None, found[name].failure
    assert 1.4 < found["long"].median_us / found["short"].median_us < 2.8


def test_a_mistaken_job_is_a_failure(session, library, sentinel):
    wrong = jobs(library, "double", args=ARGS[:1]) + jobs(library, "nothing")
    good = jobs(library, "double")
    found = take(session, wrong + good, sentinel)
    assert "Expected 2 arguments" in found[0].failure
    assert "nothing" in found[1].failure
    assert found[2].failure is None


def test_noise_is_refused(session, library, sentinel):
    strict = dataclasses.replace(EASY, max_relative_iqr=1e-9, negligible_iqr_us=0.0, retakes=1)
    (found,) = take(session, jobs(library, "short"), sentinel, strict)
    assert found.median_us is None
    assert "too noisy" in found.failure
    assert "after 10 rounds" in found.failure
    drift = dataclasses.replace(EASY, max_drift=1e-9, retakes=0)
    (found,) = take(session, jobs(library, "short"), sentinel, drift)
    assert "drifts" in found.failure


def test_what_ran_at_another_speed_than_the_rest_is_refused(session, library, sentinel, monkeypatch):
    monkeypatch.setattr(session, "baseline", SpeedBaseline())
    for _ in range(SpeedBaseline.REMEMBERED):
        session.baseline.add(1e-3)  # a device that was a thousand times as fast until now
    strict = dataclasses.replace(EASY, max_drift=0.5, retakes=0)
    (found,) = take(session, jobs(library, "short"), sentinel, strict)
    assert "drifts" in found.failure
    assert session.baseline.usual_us() == 1e-3  # the readings of one group do not turn it


def test_groups_are_yielded_as_they_are_done(session, library, sentinel):
    settings = dataclasses.replace(EASY, group=1)
    records = measure(
        session, jobs(library, "short") * 200, settings, device="d", kernel_version="1", sentinel=sentinel
    )
    start = time.monotonic()
    next(records)
    next(records)
    assert time.monotonic() - start < 5
    records.close()


def test_settings_and_sentinel_are_checked(library):
    for name, value in (("repeats", 4), ("retakes", -1), ("max_drift", float("nan")), ("min_repeat_ms", 0.0)):
        with pytest.raises(InvalidValueError, match=name):
            MeasureSettings(**{name: value})

    class Far:
        is_local = False

    with pytest.raises(InvalidValueError, match="sentinel"):
        next(measure(Far(), jobs(library, "short"), device="d", kernel_version="1"))
