"""ONNX Runtime, CPU provider. INT8: static quantization, QDQ, u8 activations, s8 weights per channel.

u8 activations matter: with s8 its x86 kernels are two to three times slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvm_mpq.peers.common import EngineJob, FloatImages, NotOffered, rows

PACKAGES = ("onnxruntime", "onnx")
MODULES = ("onnxruntime",)


def build(job: EngineJob) -> None:
    import onnx

    if job.onnx is None:
        raise NotOffered("needs an ONNX file")
    target = job.folder / "model.onnx"
    if job.precision == "fp32":
        onnx.save(onnx.load(job.onnx), str(target))
        return
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load(job.onnx, load_external_data=False).graph.input[0].name
    prepared = job.folder / "prepared.onnx"
    # Shapes are static already, so that the ONNX checker's own inference is enough.
    quant_pre_process(str(job.onnx), str(prepared), skip_symbolic_shape=True)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._rows: Iterator[FloatImages] = iter(rows(job.images()))

        def get_next(self) -> dict[str, FloatImages] | None:
            x = next(self._rows, None)
            return None if x is None else {name: x}

    quantization.quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


class _Runner:
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self._kept: Any = None

    def feed(self, x: FloatImages) -> None:
        self._kept = x  # the binding holds a pointer only
        self._binding.bind_cpu_input(self._input, x)
        self._binding.bind_output(self._output)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def output(self) -> FloatImages:
        value: FloatImages = self._binding.copy_outputs_to_cpu()[0]
        return value


def load(folder: Path, precision: str, threads: int) -> _Runner:
    return _Runner(folder / "model.onnx", threads)
