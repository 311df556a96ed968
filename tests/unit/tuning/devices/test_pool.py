"""This machine as a place to measure: one child process for all work, another one only after a crash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tvm_mpq.errors import DeviceLostError
from tvm_mpq.tuning.devices.pool import ThisMachine
from tvm_mpq.tuning.devices.session_base import Session

ARGS = (np.zeros(64, np.float32), np.zeros(64, np.float32))


@pytest.fixture(scope="module")
def place() -> Iterator[ThisMachine]:
    opened = ThisMachine(1)
    yield opened
    opened.close()


def pid(place: ThisMachine) -> int:
    return place.do(lambda session: session.pid)  # type: ignore[attr-defined]


def call(session: Session, task: tuple[Path, str]) -> None:
    path, name = task
    session.call(session.upload_module(path), name, *map(session.array, ARGS))


def test_all_work_shares_a_process_until_a_kernel_ends_it(place: ThisMachine, library: Path) -> None:
    first, pace = pid(place), place.do(lambda session: session.pace)
    assert [result for _, result in place.run([(library, "double")] * 2, call)] == [None, None]
    assert pid(place) == first
    with pytest.raises(DeviceLostError, match="SIGSEGV"):
        place.do(lambda session: call(session, (library, "crash")))
    second = pid(place)
    assert second != first
    assert place.do(lambda session: session.pace) is pace  # the machine has not changed


def test_a_crash_costs_its_own_task_only(place: ThisMachine, library: Path) -> None:
    tasks = [(library, name) for name in ("double", "crash", "short")]
    found = dict(place.run(tasks, call))
    assert found[tasks[0]] is found[tasks[2]] is None
    assert isinstance(found[tasks[1]], DeviceLostError)


def test_a_closed_place_opens_again(place: ThisMachine) -> None:
    first = pid(place)
    place.close()
    assert pid(place) != first


def test_the_sentinel_is_built_once(place: ThisMachine) -> None:
    assert place.sentinel() is place.sentinel() and Path(str(place.sentinel())).is_file()
