"""ExecuTorch with XNNPACK: what PyTorch itself offers for CPUs at the edge.

INT8: XNNPACKQuantizer by PyTorch's static export flow (pt2e), symmetric weights per channel, s8 activations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tvm_mpq.peers.common import EngineJob, FloatImages, NotOffered, rows, torch_network

PACKAGES = ("executorch", "torch", "torchao")
MODULES = ("executorch.extension.pybindings.portable_lib",)
_FILE = "model.pte"


def build(job: EngineJob) -> None:
    if job.torch is None:
        raise NotOffered("needs a torch network")
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    network = torch_network(job.torch)
    images = [torch.from_numpy(x) for x in rows(job.images())]
    exported = torch.export.export(network, (images[0],))
    if job.precision == "int8":
        exported = torch.export.export(_quantized(exported.module(), images), (images[0],))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    (job.folder / _FILE).write_bytes(lowered.to_executorch().buffer)


def _quantized(network: Any, images: list[Any]) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(network, quantizer)
    for x in images:
        observed(x)
    return convert_pt2e(observed)


class _Runner:
    def __init__(self, path: Path, threads: int) -> None:
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)  # it has no other way to say how many
        self._module = portable_lib._load_for_executorch(str(path))
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def feed(self, x: FloatImages) -> None:
        import torch

        self._inputs = [torch.from_numpy(np.array(x))]

    def run(self) -> None:
        self._outputs = self._module.run_method("forward", self._inputs)

    def output(self) -> FloatImages:
        return np.array(self._outputs[0].numpy(), np.float32)


def load(folder: Path, precision: str, threads: int) -> _Runner:
    return _Runner(folder / _FILE, threads)
