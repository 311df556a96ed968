"""The pool of boards: how work is shared and what a loss costs; with sessions that only pretend."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tvm_mpq.errors import DeviceLostError, InvalidValueError, MeasurementError
from tvm_mpq.tuning.devices import boards as module
from tvm_mpq.tuning.devices.board_session import Disconnect, parse_address
from tvm_mpq.tuning.devices.boards import Boards


@pytest.mark.parametrize(
    ("text", "found"),
    [("a:1", ("a", 1)), ("10.0.0.2:9090", ("10.0.0.2", 9090)), (" [fe80::1]:65535 ", ("fe80::1", 65535))],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert parse_address(text) == found


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a:0", "a:65536", "a:b", "a b:1", "fe80::1:9090", "a:1:2"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(InvalidValueError, match="HOST:PORT"):
        parse_address(text)


class Fake:
    """A session that loses its board at the calls named in `dies`, and comes back `revives` times."""

    aged = False

    def __init__(self, name: str, note: Any, dies: tuple[int, ...] = (), revives: int = 99) -> None:
        self.name, self.note, self.dies, self.revives = name, note, dies, revives
        self.connected, self.calls, self.lock = True, 0, threading.RLock()
        self.restarts = 0

    def describe(self) -> str:
        return self.name

    def restart(self) -> None:
        if not self.connected and self.revives <= 0:
            raise DeviceLostError(f"{self.name} is not there; nothing to do")
        self.revives -= 1
        self.restarts += 1
        self.connected = True

    def close(self) -> None:
        self.connected = False

    def work(self) -> None:
        self.calls += 1
        if self.calls in self.dies:
            self.connected = False
            self.note(Disconnect(self.name, "gone"))
            raise DeviceLostError(f"{self.name} was lost; gone")


def pool(*fakes: dict[str, Any], say: Any = None, patience: float = 0.1) -> Boards:
    boards = Boards.__new__(Boards)
    boards._say = say or (lambda text: None)
    boards._patience_sec, boards.disconnects, boards._lock = patience, [], threading.RLock()
    boards._gathered, boards._tracker, boards._sentinel = True, None, None
    boards._sessions = [Fake(note=boards._lost, **fake) for fake in fakes]  # type: ignore[misc]
    return boards


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SEC", 0.02)


def step(session: Any, task: int) -> tuple[int, str]:
    time.sleep(0.01)  # so that no board does everything
    session.work()
    return task * 10, session.name


def test_work_is_shared() -> None:
    boards = pool({"name": "a"}, {"name": "b"}, {"name": "c"})
    found = dict(boards.run(range(30), step))
    assert {task: value[0] for task, value in found.items()} == {i: 10 * i for i in range(30)}
    assert {value[1] for value in found.values()} == {"a", "b", "c"}
    assert list(boards.run([], step)) == []


def test_a_lost_task_goes_to_another_board() -> None:
    said: list[str] = []
    boards = pool({"name": "a", "dies": (2,), "revives": 0}, {"name": "b"}, say=said.append)
    found = dict(boards.run(range(10), step))
    assert sorted(found) == list(range(10)) and not any(isinstance(v, DeviceLostError) for v in found.values())
    assert [disconnect.board for disconnect in boards.disconnects] == ["a"]
    assert said[0] == "lost a: gone"
    with boards.session() as session:
        assert session.describe() == "b"


def test_a_lost_task_waits_for_its_board() -> None:
    boards = pool({"name": "a", "dies": (2, 5)})
    found = dict(boards.run(range(6), step))
    assert sorted(found) == list(range(6)) and not any(isinstance(v, DeviceLostError) for v in found.values())
    assert boards._sessions[0].restarts == 2  # type: ignore[attr-defined]


def test_a_task_that_loses_two_boards_is_guilty_and_alone() -> None:
    def kills(session: Any, task: int) -> int:
        if task == 3:
            session.dies = (session.calls + 1,)
        session.work()
        return task

    found = dict(pool({"name": "a"}).run(range(6), kills))
    assert isinstance(found.pop(3), DeviceLostError)
    assert found == {i: i for i in (0, 1, 2, 4, 5)}


def test_the_last_board_ends_the_run_with_one_line() -> None:
    boards = pool({"name": "a", "dies": (2,), "revives": 0}, {"name": "b", "dies": (1,), "revives": 0})
    done = []
    with pytest.raises(DeviceLostError) as caught:  # noqa: PT012
        for task, value in boards.run(range(20), step):
            done.append((task, value))
    text = str(caught.value)
    assert "no board is left (lost: " in text and "\n" not in text
    assert "a" in text and "b" in text and "repeat the command" in text
    assert len(done) == 1  # what was done had been handed out


def test_other_errors_come_through_and_end_the_others() -> None:
    boards = pool({"name": "a"}, {"name": "b"})

    def fails(session: Any, task: int) -> int:
        if task == 2:
            raise MeasurementError("the kernel refuses")
        time.sleep(0.01)
        return task

    with pytest.raises(MeasurementError, match="refuses"):
        list(boards.run(range(50), fails))
    before = threading.active_count()
    time.sleep(0.2)
    assert threading.active_count() <= before


def test_a_caller_that_stops_leaves_no_thread_at_work() -> None:
    boards = pool({"name": "a"}, {"name": "b"})
    work = boards.run(range(1000), step)
    next(work)
    work.close()
    time.sleep(0.2)
    calls = [s.calls for s in boards._sessions]  # type: ignore[attr-defined]
    time.sleep(0.1)
    assert calls == [s.calls for s in boards._sessions]  # type: ignore[attr-defined]


def test_do_is_done_again_once() -> None:
    boards = pool({"name": "a", "dies": (1,)})

    def work(session: Any) -> str:
        session.work()
        return "done"

    assert boards.do(work) == "done"
    twice = pool({"name": "a", "dies": (1, 2)})
    with pytest.raises(DeviceLostError):
        twice.do(work)
    gone = pool({"name": "a", "dies": (1,), "revives": 0})
    with pytest.raises(DeviceLostError, match="no board is left"):
        gone.do(work)


def test_an_aged_session_is_renewed_between_tasks() -> None:
    boards = pool({"name": "a"})
    fake: Any = boards._sessions[0]
    fake.aged = True
    assert boards.do(lambda session: "done") == "done"
    assert fake.restarts == 1 and boards.disconnects == []
