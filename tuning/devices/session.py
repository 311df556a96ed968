"""A board far away, or any TVM RPC server that is already there, as a device."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from tvm import rpc

from tvm_mpq.errors import DeviceLostError, InvalidValueError
from tvm_mpq.tuning.devices.session_base import Session, one_line
from tvm_mpq.tuning.devices.tracker import Tracker

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
            except Exception as e:  # of any type: an answer that makes no sense may be taken for one
                reason = next((text for sign, text in _REFUSALS.items() if sign in str(e)), one_line(e))
                raise DeviceLostError(f"cannot connect to {self.describe()}: {reason}") from e
            finally:
                self._dials = False
        if not isinstance(offered, int) or not 0 < offered <= self.threads:
            self.close()
            raise DeviceLostError(f"{self.describe()} gives answers that make no sense: {offered!r} threads")
        if offered < self.threads:
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
