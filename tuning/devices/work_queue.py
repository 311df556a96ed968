"""A queue of tasks that several boards work on at once; a task that a lost board left goes to another board."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm_mpq.errors import DeviceLostError
from tvm_mpq.tuning.devices.board_session import BoardSession
from tvm_mpq.tuning.devices.session_base import Session

STOP_SEC = 1.0
"""How long `stop` waits for each idle thread to end. Threads that wait for a lost board are not waited for."""

CHANCES = 2
"""How many boards may be lost during a task before the task itself is taken for the cause."""


class WorkQueue:
    """A queue of tasks, and a thread for each board.

    Parameters
    ----------
    recover : callable
        Connects to a lost board again; returns False when it gives up, or when the event it is given is set.
    give_up : callable
        Called with a board that is lost for good.
    nobody : callable
        Returns the error to raise when no board is left.
    """

    def __init__(
        self,
        tasks: Sequence[Any],
        work: Callable[[Session, Any], Any],
        *,
        recover: Callable[[BoardSession, threading.Event], bool],
        give_up: Callable[[BoardSession], None],
        nobody: Callable[[BaseException], DeviceLostError],
    ) -> None:
        self._work, self._recover, self._give_up, self._nobody = work, recover, give_up, nobody
        self._todo: queue.Queue[tuple[Any, int]] = queue.Queue()
        self._done: queue.Queue[tuple[str, Any, Any]] = queue.Queue()
        self._left = len(tasks)
        self._ended = threading.Event()
        self._threads: dict[threading.Thread, BoardSession] = {}
        for task in tasks:
            self._todo.put((task, 0))

    def results(self, sessions: Sequence[BoardSession]) -> Iterator[tuple[Any, Any]]:
        """Task and result, or the error of the second board that it lost; as they come."""
        for session in sessions:
            thread = threading.Thread(target=self._serve, args=(session,), daemon=True)
            self._threads[thread] = session
            thread.start()
        workers = len(sessions)
        while self._left:
            kind, task, value = self._done.get()
            if kind == "result":
                self._left -= 1
                yield task, value
            elif kind == "error":
                raise value
            else:
                workers -= 1
                if not workers:
                    raise self._nobody(value) from value

    def stop(self) -> None:
        """End all threads. When the caller gave up early, sessions still at work are closed."""
        self._ended.set()
        for thread, session in self._threads.items():
            thread.join(0.0 if self._left else STOP_SEC)
            if thread.is_alive() and self._left:
                session.close()

    def _serve(self, session: BoardSession) -> None:
        """Body of a thread: runs tasks on one board until no task is left or the board is lost for good."""
        error = DeviceLostError(f"{session.describe()} does not answer")
        try:
            while not self._ended.is_set():
                if (session.aged or not session.connected) and not self._recover(session, self._ended):
                    if not self._ended.is_set():
                        self._give_up(session)
                        self._done.put(("gone", None, error))
                    return
                try:
                    task, strikes = self._todo.get(timeout=0.05)
                except queue.Empty:
                    continue
                try:
                    self._done.put(("result", task, self._work(session, task)))
                except DeviceLostError as e:
                    error = e
                    if strikes + 1 == CHANCES:
                        self._done.put(("result", task, e))
                    else:
                        self._todo.put((task, strikes + 1))
        except BaseException as e:  # noqa: BLE001  raised again in the thread that asked
            self._done.put(("error", None, e))
