"""OpenVINO, CPU plugin, latency hint. INT8: `nncf.quantize` with its defaults on the calibration images.

int8 leaves the precision of unquantized operators to OpenVINO, as its users do; fp32 and bf16 ask for theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvm_mpq.peers.common import EngineJob, FloatImages, NotOffered, rows

PACKAGES = ("openvino", "nncf")
MODULES = ("openvino",)


def build(job: EngineJob) -> None:
    import openvino

    model = openvino.convert_model(str(job.onnx or job.tflite))
    if job.precision == "int8":
        import nncf

        images = rows(job.images())
        model.reshape(list(images[0].shape))
        model = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
    openvino.save_model(model, str(job.folder / "model.xml"), compress_to_fp16=False)


class _Runner:
    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import openvino

        self._make = openvino.Tensor
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise NotOffered("this CPU has no bf16")
        # The process is pinned already; OpenVINO's own pinning would choose cores by number.
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        if precision != "int8":
            config["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
        self._request = core.compile_model(core.read_model(str(path)), "CPU", config).create_infer_request()
        self._kept: Any = None

    def feed(self, x: FloatImages) -> None:
        self._kept = x
        self._request.set_input_tensor(self._make(x, shared_memory=True))

    def run(self) -> None:
        self._request.infer()

    def output(self) -> FloatImages:
        value: FloatImages = self._request.get_output_tensor(0).data.copy()
        return value


def load(folder: Path, precision: str, threads: int) -> _Runner:
    return _Runner(folder / "model.xml", precision, threads)
