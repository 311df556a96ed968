"""The parent's side of `worker`: start it with the engine's Python, speak to it, end it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tvm_mpq.errors import MeasurementError
from tvm_mpq.peers.common import NotOffered
from tvm_mpq.processes import Child

_START = "import sys; sys.path.insert(0, sys.argv[1]); from tvm_mpq.peers.worker import main; main()"


class EngineError(Exception):
    """An engine failed on a network, or its process ended."""


class EngineProcess:
    """One engine's process.

    Parameters
    ----------
    python
        Interpreter that has the engine.
    cores
        Cores the process is pinned to before it imports anything.
    threads
        For engines that take it from the environment.
    log, folder
        Where its messages go, and where it runs (outside the repository, so that nothing is imported from there).
    """

    def __init__(self, python: str, cores: list[int], threads: int, log: IO[bytes], folder: Path) -> None:
        environment = {
            "TVM_NUM_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "TVM_BIND_THREADS": "0",  # TVM would bind by core number; the mask set here is obeyed as it is
        }
        command = [python, "-c", _START, str(Path(__file__).parents[2])]
        self._child = Child(command, {"cores": cores}, environment, log=log, folder=folder)

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()

    def ask(self, timeout_sec: float, **message: Any) -> dict[str, Any]:
        """One message and its answer. Raises EngineError or NotOffered."""
        self._child.send(message)
        try:
            answer = self._child.receive(timeout_sec)
        except TimeoutError as e:
            raise EngineError(f"no answer within {timeout_sec:g} s") from e
        except MeasurementError as e:
            raise EngineError(str(e)) from e
        if "not_offered" in answer:
            raise NotOffered(answer["not_offered"])
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer
