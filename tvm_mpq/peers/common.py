"""What every engine offers: `build` once into a folder, then `load` there and run.

An engine is a module of this package with `PACKAGES` (whose versions are reported), `MODULES` (imported before anything
is timed), `build(job)` and `load(folder, precision, threads)`.
This file needs numpy only: an engine's Python may lack the project itself.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatImages = npt.NDArray[np.float32]

MODULES = {"ours": "ours", "ort": "ort", "openvino": "ov", "litert": "litert", "executorch": "executorch_engine"}
"""First part of an engine's name -> module here."""

PRECISIONS = {
    "ours": ("int8", "fp32"),
    "ort": ("int8", "fp32"),
    "openvino": ("int8", "bf16", "fp32"),
    "litert": ("int8", "fp32"),
    "executorch": ("int8", "fp32"),
}


ENGINES = tuple(f"{kind}-{p}" for kind, precisions in PRECISIONS.items() for p in precisions)
"""All engines by name. Ours may also be asked for at other bits, as in `ours-w2a4`."""


class NotOffered(Exception):
    """This engine cannot have this network; the text says why. Not a failure of the run."""


@dataclass(frozen=True)
class EngineJob:
    """One network for one engine.

    model: onnx (batch 1) or tflite file; a torch network has both its ONNX file and its name for engines that convert.
    calibration: float32[samples, ...] `.npy` in the model's own layout.
    """

    kind: str  # the engine's name before the dash
    precision: str  # int8, bf16, fp32; of ours also w2a4 and the like
    folder: Path  # where build() writes
    threads: int
    calibration: Path
    onnx: Path | None = None
    tflite: Path | None = None
    tflite_int8: Path | None = None
    torch: str | None = None  # "FOLDER:MODULE:NAME": module FOLDER/MODULE.py whose build(NAME) gives the torch network
    db: str | None = None  # latency database of ours

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EngineJob:
        files = ("folder", "calibration", "onnx", "tflite", "tflite_int8")
        paths = {k: Path(v) for k, v in data.items() if k in files and v}
        return cls(**{**data, **paths})

    def images(self) -> FloatImages:
        images: FloatImages = np.load(self.calibration)
        return images


class Runner(Protocol):
    """A loaded network of batch 1."""

    def feed(self, x: FloatImages) -> None:
        """Set the input, float32[1, ...] in the source model's layout."""

    def run(self) -> Any:
        """Run once on the input that was fed; this is what is timed."""

    def output(self) -> FloatImages:
        """First output of the last run."""


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Package -> version, for those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def rows(x: FloatImages) -> list[FloatImages]:
    """float32[n, ...] as n arrays float32[1, ...]."""
    return [np.array(x[i : i + 1], order="C") for i in range(len(x))]  # copies: OpenVINO wants writable memory


def torch_network(place: str) -> Any:
    """The torch module that `EngineJob.torch` names, for inference."""
    folder, module, name = place.rsplit(":", 2)
    sys.path.insert(0, folder)
    return importlib.import_module(module).build(name).eval()
