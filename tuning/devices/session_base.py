"""What every session offers: load, call, time; with a deadline on each call and plain errors.

Every call has a deadline. When it passes, or the other side dies, the call raises `DeviceLostError`, and the session
can be used again only after `restart()`. An error raised by the remote function itself leaves the session alive and
arrives as `MeasurementError`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tvm

from tvm_mpq.errors import DeviceLostError, InvalidValueError, MeasurementError, MissingFileError
from tvm_mpq.tuning.devices.baseline import SpeedBaseline

NETWORK_RUN = "a run of the network"
"""What `guarded` calls one."""

_Self = TypeVar("_Self", bound="Session")
_T = TypeVar("_T")


class Session:
    """A device that loads modules, holds arrays and times functions. Use as a context manager.

    Attributes
    ----------
    is_local : bool
        The device is this machine.
    threads : int
        Threads a kernel may use there.
    timeout_sec : float
        Deadline of a call that names none.
    generation : int
        Counts connections: what was loaded or copied under another number is gone.
    baseline : SpeedBaseline
        The device's usual speed, as far as it was measured.
    """

    is_local = False

    def __init__(self, threads: int, timeout_sec: float) -> None:
        if threads < 1:
            raise InvalidValueError(f"threads must be 1 or more (got {threads})")
        if not timeout_sec > 0:
            raise InvalidValueError(f"timeout_sec must be above 0 (got {timeout_sec:g})")
        self.threads = threads
        self.timeout_sec = timeout_sec
        self.generation = 0
        self.baseline = SpeedBaseline()
        self._rpc: Any = None
        self._uploads = 0

    # What a kind of session must know

    def describe(self) -> str:
        """The device, for people."""
        raise NotImplementedError

    def _open(self) -> Any:
        """Connect and return a tvm.rpc.RPCSession. Raises DeviceLostError."""
        raise NotImplementedError

    def _abort(self) -> None:
        """Called from another thread: make the blocked call return."""
        raise NotImplementedError

    def _cause(self, error: BaseException) -> str:
        """Why the connection broke, as far as known."""
        return f"the connection broke ({one_line(error)})"

    def _release(self) -> None:
        """Free what `_open` took."""
        self._abort()

    # What all sessions offer

    def restart(self) -> None:
        """Connect anew; modules and arrays of the old connection are gone. Raises DeviceLostError."""
        self.close()
        self._rpc = self._open()
        self.generation += 1
        self._uploads = 0

    def close(self) -> None:
        """End the connection; harmless when it is closed. `restart` opens it again."""
        self._rpc = None
        self._release()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """False once the connection is lost or closed; `restart` makes a new one."""
        return self._rpc is not None

    @property
    def device(self) -> Any:
        """The remote CPU, a tvm.runtime.Device."""
        return self._connected().cpu()

    def upload_module(self, path: str | Path, timeout_sec: float | None = None) -> Any:
        """Send a shared library and load it there; returns the remote tvm.runtime.Module."""
        if not Path(path).is_file():
            raise MissingFileError(f"no shared library at {str(path)!r}")
        name = self.upload(path, timeout_sec)
        return self.load_uploaded(name, timeout_sec)

    def upload(self, path: str | Path, timeout_sec: float | None = None) -> str:
        """Send a file; returns its name there. Equal file names do not collide."""
        self._uploads += 1
        name = f"{self._uploads}_{Path(path).name}"
        session = self._connected()
        self.guarded(f"upload of {Path(path).name}", lambda: session.upload(str(path), name), timeout_sec)
        return name

    def load_uploaded(self, name: str, timeout_sec: float | None = None) -> Any:
        """Load a library by the name that `upload` returned, and delete its file, which it needs no longer."""
        session = self._connected()
        module = self.guarded(f"loading of {name}", lambda: session.load_module(name), timeout_sec)
        try:
            self.guarded(f"removal of {name}", lambda: session.remove(name), timeout_sec)
        except DeviceLostError:
            raise
        except MeasurementError:  # a small server may not offer it; the session's folder goes with the session
            pass
        return module

    def download(self, path: str, timeout_sec: float | None = None) -> bytes:
        """A file there; not one of /proc, whose size nobody knows before."""
        session = self._connected()
        return bytes(self.guarded(f"download of {path}", lambda: session.download(path), timeout_sec))

    def call_global(self, name: str, *args: Any, timeout_sec: float | None = None) -> Any:
        """Call a function that TVM registers there. Raises MeasurementError where it does not."""
        session = self._connected()
        return self.guarded(f"call of {name}", lambda: session.get_function(name)(*args), timeout_sec)

    def array(self, values: npt.NDArray[Any], timeout_sec: float | None = None) -> Any:
        """Copy to the device; returns a remote tvm.runtime.Tensor."""
        device = self.device
        dense = np.asarray(values, order="C")  # ascontiguousarray would give an axis to what has none
        return self.guarded("copy of an array to the device", lambda: tvm.runtime.tensor(dense, device), timeout_sec)

    def fetch(self, tensor: Any, timeout_sec: float | None = None) -> npt.NDArray[Any]:
        """Copy a remote tensor back."""
        values: npt.NDArray[Any] = self.guarded("copy of an array from the device", tensor.numpy, timeout_sec)
        return values

    def call(self, module: Any, function: str, *args: Any, timeout_sec: float | None = None) -> Any:
        """Run a function of a loaded module once."""
        return self.guarded(f"call of {function!r}", lambda: module[function](*args), timeout_sec)

    def run_network(self, machine: Any, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """All outputs of a network for these inputs. machine: a relax.VirtualMachine of this session."""
        tensors = [self.array(x) for x in inputs]

        def run() -> Any:
            machine.set_input("main", *tensors)
            machine.invoke_stateful("main")
            return machine.get_outputs("main")

        result = self.guarded(NETWORK_RUN, run)
        return [self.fetch(t) for t in (result if isinstance(result, (list, tuple)) else [result])]

    def timer(self, module: Any, function: str, number: int, repeat: int = 1) -> Callable[..., list[float]]:
        """Prepare a remote timing of `function`; the returned callable takes its arguments.

        Each of the `repeat` times (microseconds per run) is the mean of `number` runs in a loop on the device, so the
        connection's delay is not in it. One more run, not counted, comes first.
        """
        device = self.device
        evaluator = self.guarded(
            f"preparation of timing {function!r}",
            lambda: module.time_evaluator(function, device, number=number, repeat=repeat),
        )

        def run(*args: Any, timeout_sec: float | None = None) -> list[float]:
            found = self.guarded(f"timing of {function!r}", lambda: evaluator(*args).results, timeout_sec)
            return [seconds * 1e6 for seconds in found]

        return run

    def guarded(self, what: str, action: Callable[[], _T], timeout_sec: float | None = None) -> _T:
        """Do `action`, which uses remote objects, with a deadline; its errors come translated.

        Raises
        ------
        DeviceLostError
            The device died or did not answer in time.
        MeasurementError
            The remote function refused (wrong arguments, failed check); the session goes on.
        """
        self._connected()
        limit = self.timeout_sec if timeout_sec is None else timeout_sec
        try:
            return self._within(limit, action)
        except KeyboardInterrupt:
            # The answer to the interrupted call is still on its way, so the connection is out of step.
            self.close()
            raise
        except TimeoutError as e:
            self._rpc = None
            raise DeviceLostError(f"{self.describe()} gave no answer within {limit:g} s to {what}") from e
        except tvm.error.RPCError as e:
            raise MeasurementError(f"{what} failed on {self.describe()}: {_reason(e)}") from e
        except RuntimeError as e:
            self._rpc = None
            raise DeviceLostError(f"{self.describe()} was lost during {what}: {self._cause(e)}") from e
        except Exception as e:  # found wrong on this side of the connection; its type may come from the other
            raise MeasurementError(f"{what} failed: {one_line(e)}") from e

    def _within(self, limit_sec: float, action: Callable[[], _T]) -> _T:
        """Do `action` in a thread and wait for it; past the limit or on Ctrl-C abort the connection it waits on.

        TVM's calls wait in C++, where neither a deadline nor Ctrl-C reaches them. Raises TimeoutError.
        """
        results: list[_T] = []
        errors: list[BaseException] = []
        done = threading.Event()  # Thread.join, when interrupted, may take a running thread for an ended one

        def body() -> None:
            try:
                results.append(action())
            except BaseException as e:  # noqa: BLE001  raised again by the waiting thread
                errors.append(e)
            finally:
                done.set()

        threading.Thread(target=body, daemon=True).start()
        expired = True
        try:
            expired = not done.wait(limit_sec)
        finally:  # also when Ctrl-C ended the wait
            if expired:
                self._abort()
                done.wait(5.0)
        if expired:
            raise TimeoutError
        if errors:
            raise errors[0]
        return results[0]

    def _connected(self) -> Any:
        if self._rpc is None:
            raise DeviceLostError(f"the session with {self.describe()} is closed; restart() opens it again")
        return self._rpc


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its type when it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TVM puts the failed C++ condition before what it means.
    return re.sub(r"^Check failed: \(.*?\) is false: ", "", lines[0]) if lines else type(error).__name__


def _reason(error: BaseException) -> str:
    """The remote error in one line, without TVM's heading."""
    lines = [line.strip() for line in str(error).splitlines()]
    heads = ("RPCError:", "Error caught from RPC call:")
    for head in heads:
        lines = [line.removeprefix(head).strip() for line in lines]
    return " ".join(line for line in lines if line)[:400] or "unknown error"
