"""The networks of the comparison and their images, as files that every engine's process can read.

Real networks and images stand in a folder outside the project (`--shared`); the others are torch modules with seeded
random weights from `models`, whose images are the shared ones where given, else seeded noise.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.peers.bench import fixed_sizes
from tvm_mpq.peers.compare import digest

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Source:
    """Where a network comes from; paths relative to the shared folder.

    data: name under which `dataset.py` there prepares images, None = none exist; calibration, evaluation: its splits.
    noise: its inputs are no images: seeded noise stands for them.
    size: input shape without the batch axis. labelled: whether the labels mean this network's outputs.
    """

    size: tuple[int, ...]
    data: str | None
    calibration: str = "calib"
    evaluation: str = "val"
    onnx: str | None = None
    tflite: str | None = None
    tflite_int8: str | None = None
    random: bool = False
    noise: bool = False
    labelled: bool = True
    classifies: bool = True


def _random(data: str = "squeezenet1_1") -> Source:
    return Source((3, 224, 224), data, random=True, labelled=False)


_TFLITE = "models/tflite/"
NETWORKS = {
    "mobilenetv2": Source((3, 224, 224), "mobilenetv2", onnx="models/mobilenetv2.onnx"),
    "squeezenet1_1": Source((3, 224, 224), "squeezenet1_1", onnx="models/squeezenet1_1.onnx"),
    "resnet20": Source((3, 32, 32), "resnet20", "train", "test", onnx="models/resnet20.onnx"),
    "resnet56": Source((3, 32, 32), "resnet56", "train", "test", onnx="models/resnet56.onnx"),
    "resnet8": Source(
        (32, 32, 3),
        "resnet8",
        "train",
        "test",
        tflite=_TFLITE + "pretrainedResnet.tflite",
        tflite_int8=_TFLITE + "pretrainedResnet_quant.tflite",
    ),
    "vww": Source(
        (96, 96, 3),
        None,
        tflite=_TFLITE + "vww_96_float.tflite",
        tflite_int8=_TFLITE + "vww_96_int8.tflite",
        labelled=False,
    ),
    "ad01": Source(
        (640,),
        None,
        tflite=_TFLITE + "ad01_fp32.tflite",
        tflite_int8=_TFLITE + "ad01_int8.tflite",
        noise=True,
        labelled=False,
        classifies=False,
    ),
    "resnet18": _random(),
    "resnet50": _random(),
    "mobilenetv1": _random(),
    "mobilenetv3_large": _random(),
    "efficientnet_lite0": _random(),
    "ds_cnn": Source((1, 49, 10), None, random=True, noise=True, labelled=False),
    "vit_tiny": _random(),
    "bert_tiny": Source((128, 128), None, random=True, noise=True, labelled=False),
}


class MissingSourceError(Exception):
    """The network cannot be had with what was given on the command line."""


@dataclass(frozen=True)
class Material:
    """A network as files. check: a few images for comparing outputs; evaluation: all of them, with labels."""

    name: str
    source: Source
    calibration: Path
    check: Path
    evaluation: Path | None
    labels: npt.NDArray[np.int64] | None
    images: str  # what the images are, for the report
    onnx: Path | None
    tflite: Path | None
    tflite_int8: Path | None
    torch: str | None


def material(name: str, shared: Path | None, cache: Path, samples: int, checks: int, accuracy: bool) -> Material:
    """Write what the engines need. Raises MissingSourceError."""
    source = NETWORKS[name]
    if shared is None and not source.random:
        raise MissingSourceError("needs --shared FOLDER (models/ and dataset.py)")
    folder = cache / "networks" / name
    folder.mkdir(parents=True, exist_ok=True)
    calibration, evaluation, labels, images = _images(source, shared, samples)
    files = {"calibration": folder / f"calibration{samples}.npy", "check": folder / "check.npy"}
    np.save(files["calibration"], calibration)
    np.save(files["check"], _spaced(evaluation, checks))
    whole = None
    if accuracy and labels is not None:
        whole = folder / "evaluation.npy"
        np.save(whole, evaluation)
    onnx, torch = None, None
    if source.random:
        onnx, torch = _exported(name, folder, calibration), f"{HERE}:models:{name}"
    elif source.onnx is not None and shared is not None:
        onnx = fixed_sizes(shared / source.onnx, (1, *calibration.shape[1:]), folder / "batch1.onnx")
        torch = f"{shared.resolve()}:torch_models:{name}"
    return Material(
        name,
        source,
        files["calibration"],
        files["check"],
        whole,
        labels,
        images,
        onnx,
        shared / source.tflite if shared and source.tflite else None,
        shared / source.tflite_int8 if shared and source.tflite_int8 else None,
        torch,
    )


def _spaced(x: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """`count` rows, evenly spaced, since images are often sorted by class."""
    return x[np.linspace(0, len(x) - 1, min(count, len(x))).astype(np.int64)]


def _images(source: Source, shared: Path | None, samples: int) -> tuple[Any, Any, Any, str]:
    """Calibration and evaluation images float32[n, *size], labels or None, and what they are."""
    if shared is None or source.noise:
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((2 * samples, *source.size), dtype=np.float32)
        if len(source.size) == 1:
            noise = noise * np.float32(18) - np.float32(35)  # about the range of log-mel energies in decibels
        return noise[:samples], noise[samples:], None, "seeded noise"
    if str(shared) not in sys.path:
        sys.path.insert(0, str(shared))
    dataset = importlib.import_module("dataset")
    if source.data is None:  # photographs, every second pixel, 0..1
        sets = [dataset.images(s)[0] for s in ("imagenet_calib", "imagenet_val_public")]
        inner = [dataset.center(x, 2 * source.size[0])[:, ::2, ::2] for x in sets]
        calibration, evaluation = (np.ascontiguousarray(x, np.float32) / np.float32(255) for x in inner)
        return _spaced(calibration, samples), evaluation, None, "photographs, not the network's own data"
    layout = "NHWC" if source.size[-1] == 3 else "NCHW"
    calibration, _ = dataset.load(source.data, source.calibration, layout=layout)
    evaluation, labels = dataset.load(source.data, source.evaluation, layout=layout)
    known = labels if source.labelled else None
    return _spaced(calibration, samples), evaluation, known, f"{source.calibration}, {source.evaluation}"


def _exported(name: str, folder: Path, images: npt.NDArray[np.float32]) -> Path:
    import models

    target = folder / f"model-{digest(HERE / 'models.py')}.onnx"
    if not target.exists():
        models.export(name, target)
    return target
