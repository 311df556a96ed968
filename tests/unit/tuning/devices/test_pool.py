"""This machine as a pool to measure on: one child process for all work, another one only after a crash."""

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
def pool() -> Iterator[ThisMachine]:
    opened = ThisMachine(1)
    yield opened
    opened.close()


def pid(pool: ThisMachine) -> int:
    return pool.do(lambda session: session.pid)  # type: ignore[attr-defined]


def call(session: Session, task: tuple[Path, str]) -> None:
    path, name = task
    session.call(session.upload_module(path), name, *map(session.array, ARGS))


def test_all_work_shares_a_process_until_a_kernel_ends_it(pool: ThisMachine, library: Path) -> None:
    first, baseline = pid(pool), pool.do(lambda session: session.baseline)
    assert [result for _, result in pool.run([(library, "double")] * 2, call)] == [None, None]
    assert pid(pool) == first
    with pytest.raises(DeviceLostError, match="SIGSEGV"):
        pool.do(lambda session: call(session, (library, "crash")))
    second = pid(pool)
    assert second != first
    assert pool.do(lambda session: session.baseline) is baseline  # the machine has not changed


def test_a_crash_costs_its_own_task_only(pool: ThisMachine, library: Path) -> None:
    tasks = [(library, name) for name in ("double", "crash", "short")]
    found = dict(pool.run(tasks, call))
    assert found[tasks[0]] is found[tasks[2]] is None
    assert isinstance(found[tasks[1]], DeviceLostError)


def test_a_closed_pool_opens_again(pool: ThisMachine) -> None:
    first = pid(pool)
    pool.close()
    assert pid(pool) != first


def test_the_sentinel_is_built_once(pool: ThisMachine) -> None:
    assert pool.sentinel() is pool.sentinel() and Path(str(pool.sentinel())).is_file()
