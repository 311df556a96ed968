"""Whole networks over a session, and the cost of a call."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mpq.errors import MeasurementError, UnsteadyError
from tvm_mpq.execute.call_overhead import call_overhead_us
from tvm_mpq.tuning.measure.kernels import MeasureSettings
from tvm_mpq.tuning.measure.networks import NetworkJob, measure_network, measure_networks

EASY = MeasureSettings(repeats=5, min_repeat_ms=1, max_relative_iqr=5.0, max_drift=20.0)
X = np.zeros(64, np.float32)


@pytest.fixture(scope="module")
def networks(primfunc, tmp_path_factory):
    """Relax libraries that call a kernel of about 10 us one and ten times."""
    paths = []
    for count in (1, 10):
        builder, kind = relax.BlockBuilder(), relax.TensorType((64,), "float32")
        kernel = builder.add_func(primfunc("spin", count=10_000), "spin")
        x = value = relax.Var("x", kind)
        with builder.function("main", [x]):
            for _ in range(count):
                value = builder.emit(relax.call_tir(kernel, (value,), kind))
            builder.emit_func_output(value)
        paths.append(tmp_path_factory.mktemp("networks") / f"net{count}.so")
        tvm.compile(builder.get(), target=tvm.target.Target({"kind": "llvm"})).export_library(str(paths[-1]))
    return paths


def test_networks_are_timed_in_turns(session, networks):
    told: list[tuple[int, int]] = []
    jobs = [NetworkJob(path, [X]) for path in networks]
    one, ten = measure_networks(session, jobs, EASY, progress=lambda *step: told.append(step))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert told[4] == (5, 5) and all(total == 5 * -(-done // 5) for done, total in told), "retakes are told"
    assert ten.median_us > 2 * one.median_us
    for found in (one, ten):
        assert found.repeats == 5
        assert found.threads == session.threads
        assert found.load_ms > 0
        assert found.first_run_us > 0
        assert found.iqr_us < EASY.max_relative_iqr * found.median_us
        assert len(found.rounds_us) >= found.repeats and all(us > 0 for us in found.rounds_us.values())
    assert one.rounds_us.keys() & ten.rounds_us.keys() >= set(range(5)), "rounds in which both were timed"


def test_a_network_that_cannot_run_is_an_error(session, networks):
    with pytest.raises(MeasurementError):
        measure_network(session, networks[0], [X[:32]], EASY)
    with pytest.raises(MeasurementError):
        measure_network(session, networks[0], [X], EASY, function="nothing")
    strict = MeasureSettings(max_relative_iqr=1e-9, negligible_iqr_us=0, retakes=0, max_drift=20.0)
    with pytest.raises(UnsteadyError, match=r"net1\.so cannot be stated: too noisy") as raised:
        measure_network(session, networks[0], [X], strict)
    assert (raised.value.load_ms or 0) > 0 and (raised.value.first_run_us or 0) > 0
    assert measure_network(session, networks[0], [X], EASY).median_us > 0


def test_call_overhead_is_a_fraction_of_a_microsecond_to_a_few(session):
    assert 0.01 < call_overhead_us(session, EASY) < 20
