"""Where work for devices is done: this machine, or several boards (see `boards`).

A pool gives out sessions, and handles lost connections for those who measure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from tvm_mpq.errors import DeviceLostError
from tvm_mpq.tuning.devices.local_session import LocalSession
from tvm_mpq.tuning.devices.sentinel import build_sentinel
from tvm_mpq.tuning.devices.session_base import Session

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class DevicePool(Protocol):
    """A device, or several of equal identity.

    Attributes
    ----------
    linker : str or None
        Command that links for the device, None = this machine's own.
    width : int
        Devices that may work at the same time.
    """

    @property
    def linker(self) -> str | None: ...

    @property
    def width(self) -> int: ...

    def session(self) -> AbstractContextManager[Session]:
        """A session for a few calls; the caller handles its loss."""

    def do(self, work: Callable[[Session], _Result]) -> _Result:
        """Do `work` with a session; anew on another one when the device was lost. Raises DeviceLostError."""

    def run(
        self, tasks: Sequence[_Task], work: Callable[[Session, _Task], _Result]
    ) -> Iterator[tuple[_Task, _Result | DeviceLostError]]:
        """Do `work` for each task, on all devices at once; results as they come.

        A task that lost its device for good comes with the error instead of a result. Raises DeviceLostError when no
        device is left.
        """

    def sentinel(self) -> Path | None:
        """The sentinel kernel for the device, None = the one for this machine."""

    def close(self) -> None:
        """End all sessions."""


class ThisMachine:
    """Kernels run in a child process here. It takes seconds to start, so it serves until a kernel ends it."""

    linker: str | None = None
    width = 1

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._session: LocalSession | None = None
        self._sentinel: Path | None = None

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        if self._session is None:
            self._session = LocalSession(threads=self._threads)
        elif not self._session.connected:
            self._session.restart()
        yield self._session

    def do(self, work: Callable[[Session], _Result]) -> _Result:
        """A crash here is the work's own fault: it is not tried again."""
        with self.session() as session:
            return work(session)

    def run(
        self, tasks: Sequence[_Task], work: Callable[[Session, _Task], _Result]
    ) -> Iterator[tuple[_Task, _Result | DeviceLostError]]:
        if not tasks:
            return
        with self.session() as session:
            for task in tasks:
                try:
                    result: _Result | DeviceLostError = work(session, task)
                except DeviceLostError as e:
                    result = e
                    session.restart()
                yield task, result

    def sentinel(self) -> Path | None:
        if self._sentinel is None:
            self._sentinel = build_sentinel()
        return self._sentinel

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
