"""This machine as a device: a TVM RPC server in a child process, so a kernel that crashes or hangs costs a restart."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import rpc

from tvm_mpq import scratch
from tvm_mpq.errors import DeviceLostError, InvalidValueError, MeasurementError
from tvm_mpq.processes import Child, module_command
from tvm_mpq.tuning.devices import shared_files
from tvm_mpq.tuning.devices.session_base import NETWORK_RUN, Session, one_line

START_TIMEOUT_SEC = 120.0
"""Importing TVM takes a second on a desktop and ten on an emulated board."""

UPLOADS = "rpc"
"""Where in the folder that is shared with the process it looks for what is uploaded."""


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
        self._run_network: Any = None  # the function of this connection's process
        self.restart()

    def describe(self) -> str:
        return "the local measurement process"

    def upload(self, path: str | Path, timeout_sec: float | None = None) -> str:
        folder = self._shared_folder()
        self._uploads += 1
        name = f"{self._uploads}_{Path(path).name}"
        shutil.copyfile(path, Path(folder) / UPLOADS / name)
        return name

    def array(self, values: npt.NDArray[Any], timeout_sec: float | None = None) -> Any:
        if not shared_files.is_worth_it(values.dtype, values.size):
            return super().array(values, timeout_sec)
        path = shared_files.path_in(self._shared_folder())
        try:
            np.asarray(values, order="C").tofile(path)
        except OSError:  # a full disk
            return super().array(values, timeout_sec)
        shape = values.shape
        return self.call_global(shared_files.READ, str(path), str(values.dtype), *shape, timeout_sec=timeout_sec)

    def fetch(self, tensor: Any, timeout_sec: float | None = None) -> npt.NDArray[Any]:
        dtype, shape = str(tensor.dtype), tuple(int(size) for size in tensor.shape)
        if not shared_files.is_worth_it(dtype, math.prod(shape)):
            return super().fetch(tensor, timeout_sec)
        path = shared_files.path_in(self._shared_folder())
        try:
            self.call_global(shared_files.WRITE, tensor, str(path), timeout_sec=timeout_sec)
        except DeviceLostError:
            raise  # its own text says how; the way round would only find the session closed
        except MeasurementError:  # a full disk
            return super().fetch(tensor, timeout_sec)
        return shared_files.read_array(path, dtype, shape)

    def run_network(self, machine: Any, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        path, session = shared_files.path_in(self._shared_folder()), self._connected()
        if self._run_network is None:
            self._run_network = self.guarded(NETWORK_RUN, lambda: session.get_function(shared_files.RUN))
        run = self._run_network
        try:
            layout = shared_files.write_arrays(path, inputs)
            made = self.guarded(NETWORK_RUN, lambda: run(machine.module, str(path), layout))
            return shared_files.read_arrays(path, made)
        except DeviceLostError:
            raise
        except (MeasurementError, OSError, TypeError):  # a full disk, or a type that NumPy lacks
            return super().run_network(machine, inputs)

    def _shared_folder(self) -> str:
        """That this process and the child both know. Raises DeviceLostError when the session is closed."""
        self._connected()
        assert self._folder is not None, "made with the connection"
        return self._folder.name

    def _open(self) -> Any:
        key = secrets.token_hex(16)
        self._run_network = None
        self._folder = scratch.folder()
        # TVM would bind its threads by core number, beside the mask; the mask set before its start is obeyed as it is.
        environment = {"TVM_NUM_THREADS": str(self.threads), "OMP_NUM_THREADS": str(self.threads)}
        environment["TVM_BIND_THREADS"] = "0"
        config = {"key": key, "cores": self.cores, "folder": self._folder.name, "uploads": UPLOADS}
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


def _checked_cores(threads: int, cores: Sequence[int] | None) -> list[int]:
    allowed = sorted(os.sched_getaffinity(0))
    if cores is None:
        return allowed[-threads:]
    if not cores or not set(cores) <= set(allowed):
        raise InvalidValueError(f"cores must be among those allowed here, {allowed} (got {list(cores)})")
    return sorted(cores)
