"""Comparisons of one or more networks, as one report; and the user's own model made ready for it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_mpq import scratch
from tvm_mpq.errors import DataError, InvalidValueError, UnsupportedModelError
from tvm_mpq.peers.compare import Comparison, Settings, Subject

if TYPE_CHECKING:
    from tvm_mpq.execute.prepare import Prepared

CHECKED = 32
"""Samples on which outputs are compared when there are no labels."""


def compare(subjects: Sequence[Subject], settings: Settings, threads: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The report so far, after each network and thread count; the same object each time."""
    report: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items() if k != "say"},
        "rows": [],
        "missing": {},
    }
    settings.cache.mkdir(parents=True, exist_ok=True)
    with (settings.cache / "engines.log").open("wb") as log:
        for subject in subjects:
            for count in threads:
                row = Comparison(settings, subject, count, log).run()
                report["rows"].append(asdict(row))
                report["machine"]["load_average_at_end"] = os.getloadavg()
                settings.say(f"{subject.name}, {count} thread(s): {row.seconds} s")
                yield report


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the engines."""
    from tvm_mpq.targets import device_identity, local_row

    row = local_row()
    identity = device_identity(row, 1)
    return {
        "cpu": identity.cpu_model,
        "core_type": identity.core_type,
        "isa_features": identity.isa_features,
        "target": row.name,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def bench_model(
    model: Path,
    settings: Settings,
    threads: Sequence[int],
    *,
    data: Path | None = None,
    samples: int = 64,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Compare the engines on the user's own model.

    Parameters
    ----------
    model
        An ONNX or float TFLite file of one input; a dynamic batch axis is taken as 1.
    data
        `.npz` with an array named as the input, float32[samples, ...], and perhaps int64 `labels`. None: standard
        normal noise, which the report says.
    samples
        At most this many are used for calibration.
    input_shapes
        Of an ONNX file with more dynamic axes than the batch: the input's name -> its sizes.

    Raises
    ------
    InvalidValueError
        If more threads are asked for than the process may use, or the model is no file of a kind the engines read.
    UnsupportedModelError
        If the model has more than one input.
    DataError
        If the data do not fit the model.
    """
    from tvm_mpq.execute.prepare import prepare

    allowed = len(os.sched_getaffinity(0))
    if max(threads) > allowed:
        raise InvalidValueError(f"threads must be at most {allowed} here, the cores this process may use")
    if model.suffix not in (".onnx", ".tflite"):
        raise InvalidValueError(f"bench compares .onnx and .tflite files (got {str(model)!r}); export the model first")
    if input_shapes and model.suffix != ".onnx":
        raise UnsupportedModelError(f"bench takes input shapes with .onnx files only (got {model.name!r})")
    prepared = prepare(model, input_shapes=input_shapes)
    with scratch.folder() as folder:
        subject = _subject(prepared, model, Path(folder), data, samples)
        for report in compare([subject], settings, threads):
            _keep(settings, prepared.loaded.fingerprint, report["rows"][-1])
    return report


def _keep(settings: Settings, fingerprint: str, row: Mapping[str, Any]) -> None:
    """The peers' times, for the report of `optimize`."""
    from tvm_mpq.pipeline.peer_times import keep_peer_times
    from tvm_mpq.targets import device_identity, local_row
    from tvm_mpq.tuning.database.latencies import LatencyDatabase, default_path

    medians = {n: e["median_ms"] for n, e in row["engines"].items() if not n.startswith("ours")}
    db = LatencyDatabase(Path(settings.db) if settings.db else default_path())
    try:
        keep_peer_times(db, fingerprint, device_identity(local_row(), row["threads"]).key, medians)
    finally:
        db.close()


def _subject(prepared: Prepared, model: Path, folder: Path, data: Path | None, samples: int) -> Subject:
    from tvm_mpq.calibrate.data import load_dataset
    from tvm_mpq.execute.accuracy import classifies

    if len(prepared.inputs) != 1:
        names = ", ".join(prepared.inputs)
        raise UnsupportedModelError(
            f"bench takes models of one input; {model.name} has {len(prepared.inputs)}: {names}"
        )
    (name, (shape, dtype)), *_ = prepared.inputs.items()
    if dtype != "float32" or shape[0] != 1:
        raise UnsupportedModelError(f"bench takes float32 input of batch 1; {name} is {dtype} of batch {shape[0]}")
    given = load_dataset(data, prepared.inputs)
    x, labels = given.arrays[name], given.labels
    if len(x) < 2:
        raise DataError(f"bench needs 2 samples or more (got {len(x)})")
    files = {part: folder / f"{part}.npy" for part in ("calibration", "check", "evaluation")}
    np.save(files["calibration"], given.head(samples).arrays[name])
    np.save(files["check"], given.head(CHECKED).arrays[name])
    if labels is not None:
        np.save(files["evaluation"], x)
    onnx = fixed_sizes(model, shape, folder / "fixed.onnx") if model.suffix == ".onnx" else None
    return Subject(
        prepared.loaded.name,
        files["calibration"],
        files["check"],
        "synthetic (standard normal)" if given.synthetic else str(data),
        files["evaluation"] if labels is not None else None,
        labels,
        onnx,
        model if onnx is None else None,
        classifies=classifies(prepared.graph),
    )


def fixed_sizes(path: Path, shape: Sequence[int], target: Path) -> Path:
    """Write the ONNX file with its one input of this shape, batch 1: not every engine can quantize with free axes."""
    import onnx

    model = onnx.load(str(path))
    constants = {t.name for t in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in constants:
            for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                dim.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = 1
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()  # inferred below
    del model.graph.value_info[:]
    onnx.save(onnx.shape_inference.infer_shapes(model), str(target))
    return target
