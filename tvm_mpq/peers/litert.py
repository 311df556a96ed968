"""LiteRT (TensorFlow Lite) with XNNPACK.

A TFLite network runs its publisher's float and int8 files as they are (int8 in and out: LiteRT converts nothing there).
A torch network is converted by litert-torch and quantized by ai-edge-quantizer, where these are installed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tvm_mpq.peers.common import EngineJob, FloatImages, NotOffered, rows, torch_network

PACKAGES = ("ai-edge-litert", "litert-torch", "ai-edge-quantizer")
MODULES = ("ai_edge_litert.interpreter",)


def build(job: EngineJob) -> None:
    target = job.folder / "model.tflite"
    if job.tflite is not None:
        chosen = job.tflite_int8 if job.precision == "int8" else job.tflite
        if chosen is None:
            raise NotOffered("its publisher gives no int8 TFLite file")
        shutil.copyfile(chosen, target)
        return
    if job.torch is None:
        raise NotOffered("needs a TFLite file or a torch network")
    try:
        import litert_torch
        import torch
    except ImportError as e:
        raise NotOffered(f"converting needs litert-torch ({e}); benchmarks/README.md says how to give it") from e
    images = job.images()
    network = litert_torch.to_channel_last_io(torch_network(job.torch), args=[0])
    images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    converted = litert_torch.convert(network, (torch.from_numpy(images[:1]),))
    if job.precision == "fp32":
        converted.export(str(target))
        return
    from ai_edge_quantizer import quantizer, recipe

    source = job.folder / "float.tflite"
    converted.export(str(source))
    signature, input_name = _signature(source)
    maker = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    ranges = maker.calibrate({signature: [{input_name: x} for x in rows(images)]})
    maker.quantize(ranges).export_model(str(target), overwrite=True)


def _signature(path: Path) -> tuple[str, str]:
    from ai_edge_litert.interpreter import Interpreter

    (name, inputs), *_ = Interpreter(str(path)).get_signature_list().items()
    return name, inputs["inputs"][0]


class _Runner:
    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._net = Interpreter(str(path), num_threads=threads)
        self._net.allocate_tensors()
        self._in, self._out = self._net.get_input_details()[0], self._net.get_output_details()[0]

    def feed(self, x: FloatImages) -> None:
        shape = tuple(self._in["shape"])
        if x.shape != shape and x.ndim == 4:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        self._net.set_tensor(self._in["index"], _quantized(x.reshape(shape), self._in))

    def run(self) -> None:
        self._net.invoke()

    def output(self) -> FloatImages:
        value = self._net.get_tensor(self._out["index"])
        if value.dtype == np.float32:
            return np.asarray(value)
        scale, zero = self._out["quantization"]
        real: FloatImages = (value.astype(np.float32) - np.float32(zero)) * np.float32(scale)
        return real


def _quantized(x: FloatImages, details: dict[str, Any]) -> Any:
    if details["dtype"] == np.float32:
        return x
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.rint(x / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def load(folder: Path, precision: str, threads: int) -> _Runner:
    return _Runner(folder / "model.tflite", threads)
