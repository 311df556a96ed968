"""Where code runs: a child process here, or a board far away, spoken to in the same way (see `session_base`).

`LocalSession` starts a TVM RPC server as a child process, so that this machine is used exactly like a remote board and
a crashing or hanging kernel costs a restart, not the run. `RpcSession` speaks to a server that is already there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from tvm import rpc

from tvm_mpq import scratch
from tvm_mpq.errors import DeviceLostError, InvalidValueError, MeasurementError
from tvm_mpq.processes import Child, module_command
from tvm_mpq.tuning.devices.session_base import Session, one_line
from tvm_mpq.tuning.devices.tracker import Tracker

__all__ = ["LocalSession", "RpcSession", "Session"]

START_TIMEOUT_SEC = 120.0
"""Importing TVM takes a second on a desktop and ten on an emulated board."""

CONNECT_TIMEOUT_SEC = 20.0
"""For a server to accept a session: it forks a process for it, and serves one client at a time."""

GRACE_SEC = 5.0
"""The socket's own deadline comes this long after ours, so that ours is the one that is noticed."""

_T = TypeVar("_T")

_REFUSALS = {
    "is not TVM RPC server": "what listens there is no TVM RPC server (for a tracker give its key too)",
    "cannot find server that matches key": "the server there has another key than the one given",
}
"""TVM's messages when a connection fails, and what they mean."""

_dialling = threading.Lock()
"""Held while TVM opens a socket: the one socket that appears meanwhile belongs to the session that holds this."""


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
        self._folder: TemporaryDirectory[str] | None = None
        self.restart()

    def describe(self) -> str:
        return "the local measurement process"

    def _open(self) -> Any:
        key = secrets.token_hex(16)
        self._folder = scratch.folder()
        # TVM would bind its threads by core number, beside the mask; the mask set before its start is obeyed as it is.
        environment = {"TVM_NUM_THREADS": str(self.threads), "OMP_NUM_THREADS": str(self.threads)}
        environment["TVM_BIND_THREADS"] = "0"
        config = {"key": key, "cores": self.cores, "folder": self._folder.name}
        try:
            self._child = Child(module_command("tvm_mpq.tuning.devices.local_server"), config, environment)
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
            with contextlib.suppress(OSError):  # the child that was killed may still be writing
                folder.cleanup()

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
    connect_timeout_sec : float, optional
        Deadline for a session to begin; by default `timeout_sec`, but no more than `CONNECT_TIMEOUT_SEC`.

    Attributes
    ----------
    address : tuple of str and int
        Where the board itself is; a tracker may give another one after `restart`.
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
        connect_timeout_sec: float | None = None,
    ) -> None:
        super().__init__(threads, timeout_sec)
        if not 0 < port < 65536:
            raise InvalidValueError(f"port must be in [1, 65535] (got {port})")
        if tracker and not key:
            raise InvalidValueError("a tracker needs the key of the boards it shall choose from (got none)")
        self.host, self.port, self.key, self.tracker = host, port, key, tracker
        self.address = (host, port)
        self.session_timeout_sec = session_timeout_sec
        self.connect_timeout_sec = connect_timeout_sec or min(timeout_sec, CONNECT_TIMEOUT_SEC)
        self._foreign: set[str] = set()  # sockets that are not this session's
        self._lines: list[socket.socket] = []  # this session's own, beside TVM's descriptors of them
        self._dials = False
        self.restart()

    def describe(self) -> str:
        return f"{self.key or 'the device'} at {self.address[0]}:{self.address[1]}"

    def _open(self) -> Any:
        match = self.key or ""
        if self.tracker:
            with Tracker(self.host, self.port, self.connect_timeout_sec) as tracker:
                host, port, match = tracker.request(match, self.connect_timeout_sec)
                self.address = (host, port)
        with _dialling:
            self._foreign, self._dials = set(_sockets()), True
            try:
                session, offered = self._within(self.connect_timeout_sec, lambda: self._dial(match))
            except TimeoutError as e:
                raise DeviceLostError(
                    f"{self.describe()} did not accept a session within {self.connect_timeout_sec:g} s; it serves "
                    "somebody else, or a kernel crashed it and the server there must be started again"
                ) from e
            except (RuntimeError, OSError) as e:
                reason = next((text for sign, text in _REFUSALS.items() if sign in str(e)), one_line(e))
                raise DeviceLostError(f"cannot connect to {self.describe()}: {reason}") from e
            finally:
                self._dials = False
        if offered != self.threads:
            self.close()
            raise InvalidValueError(
                f"{self.describe()} offers at most {offered} threads (got {self.threads}); start its server with "
                f"TVM_NUM_THREADS={self.threads} to allow more"
            )
        return session

    def _dial(self, match: str) -> tuple[Any, int]:
        """A session, and how many threads the board then offers."""
        session = rpc.connect(*self.address, match, self.session_timeout_sec)
        self._lines = self._new()
        self._limit(self.connect_timeout_sec)
        session.get_function("runtime.config_threadpool")(1, self.threads)
        return session, session.get_function("runtime.NumThreads")()

    def guarded(self, what: str, action: Callable[[], _T], timeout_sec: float | None = None) -> _T:
        self._limit(self.timeout_sec if timeout_sec is None else timeout_sec)
        return super().guarded(what, action, timeout_sec)

    def _limit(self, seconds: float) -> None:
        """The same deadline once more in the system's socket.

        When a remote object is freed, TVM speaks to the board with Python's lock held: no thread here could then abort
        it, and a board without power would stop this process for ever.
        """
        whole = int(seconds + GRACE_SEC)
        for line in self._lines:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                with contextlib.suppress(OSError):
                    line.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", whole, 0))

    def _new(self) -> list[socket.socket]:
        """The sockets opened since the last snapshot that lead, or will lead, to the board."""
        # TVM keeps its socket to itself, but it is one of this process's descriptors.
        found = []
        for name, descriptor in _sockets().items():
            if name not in self._foreign:
                with contextlib.suppress(OSError):
                    line = socket.socket(fileno=os.dup(descriptor))
                    if _peer_port(line) in (self.address[1], None):
                        found.append(line)
                    else:
                        line.close()
        return found

    def _abort(self) -> None:
        dialled = self._new() if self._dials and not self._lines else []
        for line in (*self._lines, *dialled):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for line in dialled:
            line.close()

    def _release(self) -> None:
        # Arrays that the caller still holds would keep the connection open and the board busy.
        self._abort()
        for line in self._lines:
            line.close()
        self._lines = []


def _sockets() -> dict[str, int]:
    """Identity -> descriptor of the sockets of this process."""
    found = {}
    for text in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{text}")
            if name.startswith("socket:"):
                found[name] = int(text)
    return found


def _peer_port(line: socket.socket) -> int | None:
    """Of the other end; None while there is none."""
    try:
        peer = line.getpeername()
    except OSError:
        return None
    return int(peer[1]) if isinstance(peer, tuple) else -1  # a Unix socket


def _checked_cores(threads: int, cores: Sequence[int] | None) -> list[int]:
    allowed = sorted(os.sched_getaffinity(0))
    if cores is None:
        return allowed[-threads:]
    if not cores or not set(cores) <= set(allowed):
        raise InvalidValueError(f"cores must be among those allowed here, {allowed} (got {list(cores)})")
    return sorted(cores)
