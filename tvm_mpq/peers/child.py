"""The parent's side of `worker`: start it with the engine's Python, speak to it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tvm_mpq.peers.common import NotOffered

_START = "import sys; sys.path.insert(0, sys.argv[1]); from tvm_mpq.peers.worker import main; main()"


class EngineError(Exception):
    """An engine failed on a network, or its process ended."""


class Child:
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
        self._process = subprocess.Popen(
            [python, "-c", _START, str(Path(__file__).parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env={**os.environ, **environment},
        )
        self._buffer = b""
        self._send({"cores": cores})

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the read that follows notices
            self._process.stdin.write(json.dumps(message, default=str).encode() + b"\n")
            self._process.stdin.flush()

    def ask(self, timeout_sec: float, **message: Any) -> dict[str, Any]:
        """One message and its answer. Raises EngineError or NotOffered."""
        self._send(message)
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([stream], [], [], timeout_sec)[0]:
                raise EngineError(f"no answer within {timeout_sec:g} s")
            chunk = os.read(stream, 65536)
            if not chunk:
                raise EngineError(f"its process ended with code {self._process.wait()}")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        if "not_offered" in answer:
            raise NotOffered(answer["not_offered"])
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer
