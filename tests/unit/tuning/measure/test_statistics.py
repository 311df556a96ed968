"""Which rounds count, and which medians are good enough."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_mpq.schema import FailureKind
from tvm_mpq.tuning.devices.baseline import SpeedBaseline
from tvm_mpq.tuning.measure.kernels import MeasureSettings
from tvm_mpq.tuning.measure.statistics import TimedRound, summarize_samples

SETTINGS = MeasureSettings(repeats=5, max_relative_iqr=0.1, max_drift=0.1, negligible_iqr_us=0.0)


def samples(values, sentinel=10.0):
    return [TimedRound(v, sentinel, sentinel) for v in values]


def baseline(*readings):
    found = SpeedBaseline()
    for reading in readings or (10.0,):
        found.add(reading)
    return found


def test_the_usual_speed_is_what_a_quarter_of_the_readings_keep():
    assert baseline(10.0, 20.0, 21.0, 10.0, 22.0).usual_us() == 10.0
    assert baseline(10.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0).usual_us() == 20.0


def test_a_change_for_good_becomes_the_usual_speed():
    found = baseline(*[10.0] * SpeedBaseline.REMEMBERED)
    for _ in range(int(0.7 * SpeedBaseline.REMEMBERED)):
        found.add(20.0)
    assert found.usual_us() == 10.0
    for _ in range(int(0.1 * SpeedBaseline.REMEMBERED)):
        found.add(20.0)
    assert found.usual_us() == 20.0


def test_median_and_iqr():
    found = summarize_samples(samples([10, 11, 12, 10.5, 11.5]), baseline(), SETTINGS)
    assert (found.median_us, found.iqr_us, found.repeats, found.failure) == (11.0, 1.0, 5, None)


def test_only_the_newest_rounds_count():
    found = summarize_samples(samples([99, 1, 50, 10, 10, 10, 10, 10]), baseline(), SETTINGS)
    assert (found.median_us, found.iqr_us) == (10.0, 0.0)


def test_noise_is_refused_with_the_numbers():
    found = summarize_samples(samples([10, 20, 10, 20, 15]), baseline(), SETTINGS)
    assert found.median_us is None
    assert found.failure == "too noisy: IQR 66.7% of the median 15 us after 5 rounds (allowed 10.0%)"
    assert found.kind is FailureKind.NOISE


def test_scatter_far_below_a_call_s_cost_is_accepted():
    noisy = samples([0.010, 0.020, 0.010, 0.020, 0.015])
    assert summarize_samples(noisy, baseline(), SETTINGS).failure is not None
    assert summarize_samples(noisy, baseline(), MeasureSettings(repeats=5, negligible_iqr_us=0.05)).median_us == 0.015


def test_rounds_during_a_drift_do_not_count():
    drifted = [TimedRound(99.0, 10.0, 12.0), TimedRound(99.0, 12.0, 10.0), TimedRound(99.0, 8.0, 10.0)]
    calm = samples([10.0] * 5)
    found = summarize_samples([*calm, *drifted], baseline(), SETTINGS)
    assert found.median_us == 10.0
    found = summarize_samples([*calm[:4], *drifted], baseline(), SETTINGS)
    assert found.failure is not None
    assert "drifts: the sentinel took 8.0 to 12.0 us" in found.failure
    assert "only 4 of the 5" in found.failure
    assert "of its usual 10.0 us" in found.failure
    assert found.kind is FailureKind.DRIFT


def test_without_samples():
    found = summarize_samples([], SpeedBaseline(), SETTINGS)
    assert found.failure is not None and found.kind is FailureKind.UNTIMED


@given(st.lists(st.floats(0.1, 1e6), min_size=5, max_size=20))
def test_an_accepted_median_keeps_its_promise(values):
    found = summarize_samples(samples(values), baseline(), SETTINGS)
    if found.failure is None:
        assert found.iqr_us <= 0.1 * found.median_us
        assert found.median_us == pytest.approx(np.median(values[-5:]), rel=1e-12)
    else:
        assert found.median_us is found.iqr_us is None
