"""Boards for tests: TVM's own servers and tracker on loopback in processes of their own, and others that misbehave."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

_SERVER = """
import sys, time
sys.modules["torch"] = None  # TVM would import it, for seconds
from tvm.rpc.server import PopenRPCServerState
tracker = ("127.0.0.1", int(sys.argv[2])) if sys.argv[2] != "0" else None
start = int(sys.argv[3])
state = PopenRPCServerState("127.0.0.1", start, start + 200, tracker_addr=tracker, key=sys.argv[1], silent=True)
print(state.port, flush=True)
time.sleep(3600)
"""
_TRACKER = """
import sys, time
sys.modules["torch"] = None
from tvm.rpc.tracker import PopenTrackerServerState
print(PopenTrackerServerState("127.0.0.1", 23190, 23390, silent=True).port, flush=True)
time.sleep(3600)
"""


class Server:
    """A process with all it started."""

    def __init__(self, code: str, *args: object) -> None:
        command = [sys.executable, "-c", code, *map(str, args)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        env = {**os.environ, "TVM_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, text=True, start_new_session=True, env=env, **pipes)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def pid(self) -> int:
        """Also the session's id, which all processes it starts share."""
        return self._process.pid

    def kill(self) -> None:
        """At once, with the sessions it serves."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def rpc_server(key: str = "", tracker: int = 0, port: int = 21190) -> Iterator[Server]:
    """A plain TVM RPC server; `tracker`: port of the tracker that shall know it."""
    server = Server(_SERVER, key, tracker, port)
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def rpc_tracker() -> Iterator[Server]:
    """TVM's RPC tracker."""
    server = Server(_TRACKER)
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port where `serve(connection)` answers every client in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=_quietly, args=(serve, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _quietly(serve: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        serve(connection)


_CABLE = """
import socket, sys, threading
limit = [None]

def forward(source, target, limited):
    sent = 0
    try:
        while data := source.recv(65536):
            sent += len(data)
            if limited and limit[0] is not None and sent > limit[0]:
                break
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

def accept():
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        threading.Thread(target=forward, args=(client, server, True), daemon=True).start()
        threading.Thread(target=forward, args=(server, client, False), daemon=True).start()

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
threading.Thread(target=accept, daemon=True).start()
for line in sys.stdin:
    limit[0] = int(line) if line.strip() else None
    print(flush=True)
"""


class Cable(Server):
    """Leads to a server from a port of its own. In another process: TVM may wait with this one's lock held."""

    def __init__(self, port: int) -> None:
        super().__init__(_CABLE, port)

    def cut_after(self, size: int | None) -> None:
        """Cut each connection that has carried more bytes than this towards the server; None = mended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{'' if size is None else size}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()


@contextlib.contextmanager
def cable(port: int) -> Iterator[Cable]:
    """A cable to the server at `port`."""
    opened = Cable(port)
    try:
        yield opened
    finally:
        opened.kill()
