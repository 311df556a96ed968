"""The interpreter: runs do not disturb each other. That it equals the library: tests/integration/test_exactness.py."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from mpq_testing.definition import assert_steps_follow_the_definition
from mpq_testing.lab import Lab
from tvm_mpq.calibrate.sensitivity import predict
from tvm_mpq.errors import DataError
from tvm_mpq.execute.interpreter import MEMORY_BYTES
from tvm_mpq.passes.lowering import ReshapeStep, made_by


@pytest.mark.parametrize("default", ["fp32", "w8a8", "w4a8"])
def test_steps_follow_the_definition(tiny: Lab, default: str) -> None:
    plan = tiny.plan(default)
    assert_steps_follow_the_definition(tiny.graph, tiny.steps(plan), tiny.values(plan))


def test_plans_take_turns_without_trace(tiny: Lab) -> None:
    """Buffers and constants are kept between runs; results must not depend on who ran before."""
    plans = [tiny.plan("w8a8"), tiny.plan("w4a8"), tiny.plan("fp32"), tiny.plan("w8a8", {"block": "fp32"})]
    first = [tiny.interpret(p) for p in plans]
    for sample in (1, 0):
        again = [tiny.interpret(p, sample) for p in reversed(plans)][::-1]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    assert len({a[0].tobytes() for a in first}) == 4


def test_constants_follow_the_ranges(tiny: Lab) -> None:
    """Packed constants are kept; another range of any one tensor must not find the old ones."""
    plan = tiny.plan("w8a8")
    tiny.values(plan)
    for name, quants in tiny.ranges.items():
        ranges = {**tiny.ranges, name: [dataclasses.replace(q, scale=q.scale * 2) for q in quants]}
        other = dataclasses.replace(plan, tensors=ranges)
        assert_steps_follow_the_definition(tiny.graph, tiny.steps(other), tiny.values(other))


def test_outputs_are_copies(tiny: Lab) -> None:
    steps = tiny.steps(tiny.plan("fp32"))
    run = [
        tiny.interpreter.outputs(tiny.interpreter.run(steps, tiny.interpreter.load(s), tag="x"))[0]
        for s in tiny.samples
    ]
    assert len({r.tobytes() for r in run}) == len(run)


def test_values_of_an_earlier_run_stay(tiny: Lab) -> None:
    """A trial on top of a base run writes into buffers of its own."""
    steps = tiny.steps(tiny.plan("fp32"))
    base = tiny.interpreter.run(steps, tiny.interpreter.load(tiny.samples[0]), tag="base")
    before = tiny.interpreter.outputs(base)[0]
    trial = tiny.steps(tiny.plan("w4a8"))
    tiny.interpreter.prepare(trial)
    tiny.interpreter.run(trial, base, tag="trial")
    np.testing.assert_array_equal(tiny.interpreter.outputs(base)[0], before)


def test_runs_at_the_same_time_do_not_disturb_each_other(tiny: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float operators (the classifier's softmax, hard-swish) share one machine; each lane has buffers of its own."""
    steps = tiny.steps(tiny.plan("w8a8"))
    wanted = predict(tiny.interpreter, steps, tiny.samples)
    monkeypatch.setattr(tiny.interpreter._runtime, "at_once", 4)
    found = predict(tiny.interpreter, steps, tiny.samples * 40)
    for i, output in enumerate(found):
        np.testing.assert_array_equal(output, wanted[i % len(wanted)])


def test_work_at_the_same_time_has_lanes_of_its_own_and_fails_as_alone(
    tiny: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.interpreter._runtime, "at_once", 3)
    together = threading.Barrier(3, timeout=20.0)
    seen: dict[int, str] = {}

    def work(item: int, lane: str) -> int:
        seen[item] = lane
        together.wait()
        return item * item

    assert tiny.interpreter.each(work, range(3)) == [0, 1, 4]
    assert len(set(seen.values())) == 3

    def fails(item: int, _lane: str) -> int:
        raise DataError(f"item {item}")

    with pytest.raises(DataError, match="item 0"):
        tiny.interpreter.each(fails, range(5))


def test_threads_stay_and_are_no_more_than_runs_at_once(tiny: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """TVM keeps workers for each thread that ever ran a parallel kernel: new threads would fill a machine."""
    monkeypatch.setattr(tiny.interpreter._runtime, "at_once", 2)
    rounds = [tiny.interpreter.each(lambda _, lane: threading.current_thread(), range(8)) for _ in range(3)]
    seen = {thread for threads in rounds for thread in threads}
    assert len(seen) <= 2


def test_as_many_run_at_once_as_memory_holds(tiny: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.interpreter._runtime, "at_once", 4)
    for share, lanes in ((2, {"0", "1"}), (1, {""})):
        seen = set(tiny.interpreter.each(lambda _, lane: lane, range(40), MEMORY_BYTES // share))
        assert seen <= lanes
    steps = tiny.steps(tiny.plan("fp32"))
    values = tiny.interpreter.run(steps, tiny.interpreter.load(tiny.samples[0]), tag="bytes")
    made = {made_by(step) for step in steps if not isinstance(step, ReshapeStep)}
    assert tiny.interpreter.lane_bytes(steps) == sum(values[value].numpy().nbytes for value in made)
