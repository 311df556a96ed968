"""Boards far away, used as one pool: several of equal identity under one tracker key, or a single server.

Work is split over all boards that are free. One that drops is named, its task goes to another board or waits for it to
come back; what was done is kept by those who did it. Boards of another CPU under the same key are refused, since
their times would be mixed up with those of the first.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import tvm

from tvm_mpq.errors import DeviceLostError
from tvm_mpq.targets.cross import linker_for
from tvm_mpq.tuning.devices import session as sessions
from tvm_mpq.tuning.devices.board_session import BoardSession, Disconnect
from tvm_mpq.tuning.devices.sentinel import build_sentinel
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.devices.tracker import NotATrackerError, Tracker
from tvm_mpq.tuning.devices.work_queue import CHANCES, WorkQueue

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

PATIENCE_SEC = 120.0
"""How long a lost board may take to come back before it is given up."""

RETRY_SEC = 2.0
"""Between two attempts to reach a lost board."""

MOST_BOARDS = 16
"""TVM holds 32 sessions in a process, and lost ones count until their last array is gone."""


class Boards:
    """Implements `pool.DevicePool` over RPC.

    Parameters
    ----------
    host, port : str, int
        Of a server, or with `key` of a tracker.
    key : str, optional
        Kind of boards at the tracker. Where a server listens instead of a tracker, its key.
    threads : int
        Threads a kernel may use there.
    say : callable, optional
        Hears about boards that are lost or refused.

    Raises
    ------
    DeviceLostError
        Nothing usable answers.
    """

    def __init__(
        self,
        host: str,
        port: int,
        key: str | None = None,
        *,
        threads: int = 1,
        say: Callable[[str], None] | None = None,
        patience_sec: float | None = None,
        timeout_sec: float = 120.0,
        connect_timeout_sec: float | None = None,
    ) -> None:
        self._say = say or (lambda text: None)
        self._patience_sec = PATIENCE_SEC if patience_sec is None else patience_sec
        self.disconnects: list[Disconnect] = []
        self._lock = threading.RLock()
        self._sessions: list[BoardSession] = []
        self._gathered = False
        self._sentinel: Path | None = None
        tracker = key is not None and _is_tracker(host, port)
        self._connect = functools.partial(
            BoardSession,
            host,
            port,
            key,
            threads=threads,
            tracker=tracker,
            note=self._lost,
            timeout_sec=timeout_sec,
            connect_timeout_sec=connect_timeout_sec,
        )
        self._tracker = (host, port, str(key)) if tracker else None
        first = self._connect()
        self._sessions.append(first)
        self.board = first.board

    @property
    def names(self) -> list[str]:
        """The boards in use now."""
        with self._lock:
            return [s.describe() for s in self._sessions]

    @functools.cached_property
    def width(self) -> int:
        """Boards registered under the key when first asked."""
        if self._tracker is None:
            return 1
        host, port, key = self._tracker
        with Tracker(host, port, self._sessions[0].connect_timeout_sec) as tracker:
            registered, _ = tracker.boards(key)
        return max(1, min(registered, MOST_BOARDS))

    @functools.cached_property
    def linker(self) -> str | None:
        """Raises MissingDependencyError when nothing here links for the boards."""
        return linker_for(self.board.architecture)

    def build_sentinel(self, target: tvm.target.Target) -> None:
        """Compile the sentinel for the target that will be measured."""
        self._sentinel = build_sentinel(target, linker=self.linker)

    def sentinel(self) -> Path | None:
        return self._sentinel

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """The first living board."""
        yield self._ready(self._best())

    def do(self, work: Callable[[Session], _Result]) -> _Result:
        for chance in range(CHANCES):
            session = self._ready(self._best())
            try:
                return work(session)
            except DeviceLostError as e:
                if chance + 1 == CHANCES:
                    raise
                self._say(f"{_short(e)}; beginning this step again")
        raise AssertionError("unreachable")

    def run(
        self, tasks: Sequence[_Task], work: Callable[[Session, _Task], _Result]
    ) -> Iterator[tuple[_Task, _Result | DeviceLostError]]:
        if not tasks:
            return
        if len(tasks) > 1:
            self._gather(len(tasks))
        queue = WorkQueue(tasks, work, recover=self._recover, give_up=self._give_up, nobody=self._nobody)
        try:
            yield from queue.results(list(self._sessions))
        finally:
            queue.stop()

    def close(self) -> None:
        with self._lock:
            for session in self._sessions:
                session.close()

    def _best(self) -> BoardSession:
        """A living session when there is one."""
        with self._lock:
            if not self._sessions:
                raise self._nobody(DeviceLostError("all boards were given up"))
            return next((s for s in self._sessions if s.connected), self._sessions[0])

    def _ready(self, session: BoardSession) -> BoardSession:
        """Renew a session that is lost or about to be ended by the board."""
        if (session.aged or not session.connected) and not self._recover(session, threading.Event()):
            raise self._nobody(DeviceLostError(f"{session.describe()} does not answer"))
        return session

    def _gather(self, most: int) -> None:
        """Take the tracker's other free boards too, once."""
        if self._tracker is None or self._gathered:
            return
        self._gathered = True
        host, port, key = self._tracker
        with Tracker(host, port, self._sessions[0].connect_timeout_sec) as tracker:
            _, free = tracker.boards(key)
        strangers: list[BoardSession] = []
        for _ in range(min(free, most - 1, MOST_BOARDS - 1)):
            try:
                session = self._connect()
            except DeviceLostError as e:
                self._say(f"{_short(e)}; going on without it")
                continue
            if session.board == self.board:
                self._sessions.append(session)
            else:  # kept until all are asked: the tracker would give it again
                strangers.append(session)
                self._say(
                    f"{session.describe()} is another CPU ({session.board.cpu_model}) than the first board; not used"
                )
        for session in strangers:
            session.close()
        if len(self._sessions) > 1:
            self._say(f"measuring on {len(self._sessions)} boards")

    def _lost(self, disconnect: Disconnect) -> None:
        with self._lock:
            self.disconnects.append(disconnect)
        self._say(f"lost {disconnect.board}: {disconnect.reason}")

    def _recover(self, session: BoardSession, stop: threading.Event) -> bool:
        """Reach a lost board again, or another of its kind; False when patience ends or `stop` is set."""
        end = time.monotonic() + self._patience_sec
        said = False
        while not stop.is_set():
            try:
                with session.lock:
                    session.restart()
                return True
            except DeviceLostError as e:
                if time.monotonic() >= end:
                    return False
                if not said:
                    said = True
                    self._say(f"{_short(e)}; waiting up to {self._patience_sec:.0f} s for it to come back")
            stop.wait(RETRY_SEC)
        return False

    def _give_up(self, session: BoardSession) -> None:
        session.close()
        with self._lock:
            if session in self._sessions:
                self._sessions.remove(session)

    def _nobody(self, error: BaseException) -> DeviceLostError:
        lost = ", ".join(dict.fromkeys(disconnect.board for disconnect in self.disconnects)) or "the board"
        return DeviceLostError(
            f"no board is left (lost: {lost}): {_short(error)}; what was measured is kept: start the server there "
            "again and repeat the command"
        )


def _is_tracker(host: str, port: int) -> bool:
    try:
        Tracker(host, port, sessions.CONNECT_TIMEOUT_SEC).close()
    except NotATrackerError:
        return False
    return True


def _short(error: BaseException) -> str:
    return str(error).split("; ")[0]
