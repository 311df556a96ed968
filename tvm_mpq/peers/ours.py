"""tvm-mpq: one precision everywhere, built through the project's API, run by plain TVM runtime.

Below 8 bits the first and the last operator stay at w8a8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvm_mpq.peers.common import EngineJob, FloatImages

PACKAGES = ("tvm-mpq", "apache-tvm", "apache-tvm-ffi")
MODULES = ("tvm", "tvm.relax")
UNIFORM = {"int8": "w8a8", "fp32": "fp32"}


def build(job: EngineJob) -> None:
    from tvm_mpq.pipeline import Options, build_network

    images = job.images()
    options = Options(
        job.onnx or job.tflite, data=images, threads=job.threads, db=job.db, calibration_samples=len(images)
    )
    uniform = UNIFORM.get(job.precision, job.precision)
    keep = () if job.precision in UNIFORM else ("first", "last")
    build_network(options, uniform=uniform, keep=keep).save(job.folder)


class _Runner:
    def __init__(self, path: Path) -> None:
        import tvm
        from tvm import relax

        self._tensor = tvm.runtime.tensor
        self._machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
        self._main = self._machine["main"]
        self._input: Any = None
        self._result: Any = None

    def feed(self, x: FloatImages) -> None:
        self._input = self._tensor(x)

    def run(self) -> None:
        self._result = self._main(self._input)

    def output(self) -> FloatImages:
        first = self._result if hasattr(self._result, "numpy") else self._result[0]
        value: FloatImages = first.numpy()
        return value


def load(folder: Path, precision: str, threads: int) -> _Runner:
    return _Runner(folder / "model.so")
