"""Where code runs: a child process here, or a board far away, spoken to in the same way (see `session_base`).

`LocalSession` starts a TVM RPC server as a child process, so that this machine is used exactly like a remote board and
a crashing or hanging kernel costs a restart, not the run. `RpcSession` speaks to a server that is already there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Sequence
from typing import Any

from tvm import rpc

from tvm_mpq.errors import DeviceLostError, InvalidValueError, MeasurementError
from tvm_mpq.tuning.children import Child
from tvm_mpq.tuning.session_base import Session, one_line

__all__ = ["LocalSession", "RpcSession", "Session"]

START_TIMEOUT_SEC = 120.0
"""Importing TVM takes a second on a desktop and ten on an emulated board."""


class LocalSession(Session):
    """This machine, through a child process that runs `threads` threads on `cores`.

    Parameters
    ----------
    threads : int
        TVM threads in the child.
    cores : sequence of int, optional
        Cores it may use; by default as many as threads, from the end of those allowed to this process (the first
        core serves most interrupts).
    timeout_sec : float
        Deadline of a call that names none.
    """

    is_local = True

    def __init__(self, threads: int = 1, cores: Sequence[int] | None = None, timeout_sec: float = 60.0) -> None:
        super().__init__(threads, timeout_sec)
        self.cores = _checked_cores(threads, cores)
        self._child: Child | None = None
        self._folder: str | None = None
        self.restart()

    def describe(self) -> str:
        return "the local measurement process"

    def _open(self) -> Any:
        key = secrets.token_hex(16)
        self._folder = tempfile.mkdtemp(prefix="tvm-mpq-")
        # TVM would bind its threads by core number, beside the mask; the mask set before its start is obeyed as it is.
        environment = {"TVM_NUM_THREADS": str(self.threads), "OMP_NUM_THREADS": str(self.threads)}
        environment["TVM_BIND_THREADS"] = "0"
        config = {"key": key, "cores": self.cores, "folder": self._folder}
        try:
            self._child = Child("tvm_mpq.tuning.local_server", config, environment)
            port = self._child.receive(START_TIMEOUT_SEC)["port"]
            return self._within(START_TIMEOUT_SEC, lambda: rpc.connect("127.0.0.1", port, key))
        except (TimeoutError, RuntimeError) as e:
            cause = f"not ready within {START_TIMEOUT_SEC:g} s" if isinstance(e, TimeoutError) else self._cause(e)
            self.close()
            raise DeviceLostError(f"cannot start {self.describe()}: {cause}") from e
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """Process id of the child, None when closed."""
        return self._child.pid if self._child else None

    def _abort(self) -> None:
        if self._child is not None:
            self._child.stop()

    def _cause(self, error: BaseException) -> str:
        if isinstance(error, MeasurementError) or self._child is None:  # the child's obituary already
            return one_line(error)
        return f"{self._child.obituary()} ({one_line(error)})" if self._child.alive() else self._child.obituary()

    def _release(self) -> None:
        child, folder, self._child, self._folder = self._child, self._folder, None, None
        if child is not None:
            child.kill()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def __del__(self) -> None:
        if getattr(self, "_child", None) is not None:
            self.close()


class RpcSession(Session):
    """A TVM RPC server that is already running (`python -m tvm.exec.rpc_server`), on a board or anywhere.

    Parameters
    ----------
    host, port : str, int
        Of the server, or of the tracker when `tracker` is set.
    key : str, optional
        Of the server; required with a tracker, where it names the kind of board.
    threads : int
        Set on the board before anything is measured.
    tracker : bool
        Ask a tracker at `host:port` for a free board.
    timeout_sec : float
        Deadline of a call that names none, enforced here by cutting the connection.
    session_timeout_sec : int
        After so long in all the board itself ends the session, so that a hanging kernel cannot hold it for ever.
    """

    def __init__(
        self,
        host: str,
        port: int,
        key: str | None = None,
        *,
        threads: int = 1,
        tracker: bool = False,
        timeout_sec: float = 120.0,
        session_timeout_sec: int = 7200,
    ) -> None:
        super().__init__(threads, timeout_sec)
        if not 0 < port < 65536:
            raise InvalidValueError(f"port must be in [1, 65535] (got {port})")
        if tracker and not key:
            raise InvalidValueError("a tracker needs the key of the boards it shall choose from (got none)")
        self.host, self.port, self.key, self.tracker = host, port, key, tracker
        self.session_timeout_sec = session_timeout_sec
        self._foreign: set[str] = set()  # sockets that are not this session's
        self._own: set[str] | None = None  # None while the connection is being made
        self.restart()

    def describe(self) -> str:
        return f"{self.key or 'the device'} at {self.host}:{self.port}"

    def _open(self) -> Any:
        self._foreign, self._own = set(_sockets()), None
        try:
            session, offered = self._within(self.timeout_sec, self._dial)
        except TimeoutError as e:
            raise DeviceLostError(
                f"{self.describe()} did not accept a session within {self.timeout_sec:g} s; it serves somebody else, "
                "or a kernel crashed it and the server there must be started again"
            ) from e
        except (RuntimeError, OSError) as e:
            raise DeviceLostError(f"cannot connect to {self.describe()}: {one_line(e)}") from e
        self._own = set(_sockets()) - self._foreign
        if offered != self.threads:
            self.close()
            raise InvalidValueError(
                f"{self.describe()} offers at most {offered} threads (got {self.threads}); start its server with "
                f"TVM_NUM_THREADS={self.threads} to allow more"
            )
        return session

    def _dial(self) -> tuple[Any, int]:
        """A session, and how many threads the board then offers."""
        if self.tracker:
            # TVM tries for a minute to reach a tracker that is not there, and warns on standard error.
            socket.create_connection((self.host, self.port), self.timeout_sec).close()
            found = rpc.connect_tracker(self.host, self.port)
            session = found.request(self.key, session_timeout=self.session_timeout_sec, max_retry=1)
            found.close()
        else:
            session = rpc.connect(self.host, self.port, self.key or "", self.session_timeout_sec)
        session.get_function("runtime.config_threadpool")(1, self.threads)
        return session, session.get_function("runtime.NumThreads")()

    def _abort(self) -> None:
        # TVM keeps its socket to itself, but it is one of this process's descriptors, opened in `_open`.
        for name, descriptor in _sockets().items():
            if name in self._own if self._own is not None else name not in self._foreign:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                    connection.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        # Arrays that the caller still holds would keep the connection open and the board busy.
        if self._own is not None:
            self._abort()
            self._own = set()


def _sockets() -> dict[str, int]:
    """Identity -> descriptor of the sockets of this process."""
    found = {}
    for text in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{text}")
            if name.startswith("socket:"):
                found[name] = int(text)
    return found


def _checked_cores(threads: int, cores: Sequence[int] | None) -> list[int]:
    allowed = sorted(os.sched_getaffinity(0))
    if cores is None:
        return allowed[-threads:]
    if not cores or not set(cores) <= set(allowed):
        raise InvalidValueError(f"cores must be among those allowed here, {allowed} (got {list(cores)})")
    return sorted(cores)
