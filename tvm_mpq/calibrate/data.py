"""Calibration and evaluation data: `.npz` archives or arrays, checked against the model's inputs, cut into samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import DataError, FileFormatError, MissingFileError
from tvm_mpq.execute.interpreter import Sample
from tvm_mpq.execute.prepare import InputSpecs

LABELS = "labels"

SYNTHETIC_SAMPLES = 16


@dataclass(frozen=True)
class Dataset:
    """Samples for one model. arrays: input name -> array [samples, ...]; batch: samples the network takes at once."""

    arrays: dict[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.int64] | None
    batch: int
    synthetic: bool = False

    def __len__(self) -> int:
        """How many runs of the network the data give (an incomplete last batch is left out)."""
        return len(next(iter(self.arrays.values()))) // self.batch

    def sample(self, i: int) -> Sample:
        at = slice(i * self.batch, (i + 1) * self.batch)
        return {name: x[at] for name, x in self.arrays.items()}

    def samples(self) -> list[Sample]:
        return [self.sample(i) for i in range(len(self))]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples())

    def head(self, count: int) -> Dataset:
        """At most `count` runs, evenly spaced over the data, so that sorted data stay balanced."""
        if count >= len(self):
            return self
        return self.runs(np.linspace(0, len(self) - 1, count).astype(np.int64))

    def runs(self, which: npt.NDArray[np.int64]) -> Dataset:
        """These runs, in this order."""
        rows = (which[:, None] * self.batch + np.arange(self.batch)).reshape(-1)
        labels = None if self.labels is None else self.labels[rows]
        return Dataset({n: x[rows] for n, x in self.arrays.items()}, labels, self.batch, self.synthetic)

    @property
    def fingerprint(self) -> str:
        """sha256 over all values, hexadecimal, 16 digits."""
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.arrays[name]).tobytes())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()[:16]


def load_dataset(source: str | Path | Mapping[str, Any] | npt.NDArray[Any] | None, inputs: InputSpecs) -> Dataset:
    """Read and check data for a model.

    Parameters
    ----------
    source
        Path of an `.npz` whose arrays are named after the model's inputs, with optional int64 `labels`; a mapping of
        the same form; an array for a model of one input; or None for seeded synthetic data (standard normal).
    inputs
        What the model takes.

    Raises
    ------
    MissingFileError, FileFormatError
        If the path leads to nothing, or to something that is not an `.npz` archive.
    DataError
        If an array is missing, unknown, empty, of another dtype or shape, holds NaN or infinity, or labels do not fit.
    """
    batch = next(iter(inputs.values()))[0][0] if next(iter(inputs.values()))[0] else 1
    if source is None:
        return _synthetic(inputs, batch)
    arrays = _arrays(source, inputs)
    labels = arrays.pop(LABELS, None)
    unknown = sorted(set(arrays) - set(inputs))
    lacking = sorted(set(inputs) - set(arrays))
    if unknown or lacking:
        raise DataError(f"data arrays must be named after the model's inputs {sorted(inputs)} (got {sorted(arrays)})")
    checked = {name: _check(name, arrays[name], shape, dtype) for name, (shape, dtype) in inputs.items()}
    counts = {name: len(x) for name, x in checked.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"all inputs need the same number of samples (got {counts})")
    count = next(iter(counts.values()))
    if count < batch:
        raise DataError(f"data must hold at least one batch of {batch} samples (got {count})")
    return Dataset(checked, _check_labels(labels, count), batch)


def _arrays(source: Any, inputs: InputSpecs) -> dict[str, npt.NDArray[Any]]:
    if isinstance(source, np.ndarray):
        if len(inputs) != 1:
            raise DataError(f"the model has inputs {sorted(inputs)}: give a mapping from name to array, not one array")
        return {next(iter(inputs)): source}
    if isinstance(source, Mapping):
        return {name: np.asarray(x) for name, x in source.items()}
    path = Path(source)
    if not path.exists():
        raise MissingFileError(f"no data file at {str(path)!r}")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise FileFormatError(
                f"{str(path)!r} holds one bare array; save with numpy.savez(path, <input name>=array)"
            )
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileFormatError:
        raise
    except Exception as e:  # zipfile, zlib, pickle and numpy each raise their own for a damaged archive
        raise FileFormatError(f"{str(path)!r} is not a readable .npz archive: {e}") from e


def _check(name: str, x: npt.NDArray[Any], shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    if str(x.dtype) != dtype:
        raise DataError(f"data array {name!r} must be {dtype} (got {x.dtype}); convert it with .astype('{dtype}')")
    if x.ndim != len(shape) or x.shape[1:] != shape[1:]:
        wanted = "x".join(["samples", *map(str, shape[1:])])
        raise DataError(f"data array {name!r} must have shape {wanted} (got {'x'.join(map(str, x.shape))})")
    if len(x) == 0:
        raise DataError(f"data array {name!r} is empty; at least one sample is needed")
    if x.dtype.kind == "f":
        bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
        if bad.any():
            raise DataError(f"data array {name!r} holds NaN or infinity in sample {int(bad.argmax())}")
    return x


def _check_labels(labels: npt.NDArray[Any] | None, count: int) -> npt.NDArray[np.int64] | None:
    if labels is None:
        return None
    if labels.dtype.kind not in "iu":
        raise DataError(f"labels must be integers (got {labels.dtype})")
    if labels.shape != (count,):
        raise DataError(f"labels must have shape ({count},), one per sample (got {labels.shape})")
    return labels.astype(np.int64)


def _synthetic(inputs: InputSpecs, batch: int) -> Dataset:
    rng = np.random.default_rng(0)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, (shape, dtype) in inputs.items():
        whole = (SYNTHETIC_SAMPLES * batch, *shape[1:])
        if dtype.startswith("float"):
            arrays[name] = rng.standard_normal(whole, dtype=np.float32)
        else:
            arrays[name] = rng.integers(0, 2, whole).astype(dtype)
    return Dataset(arrays, None, batch, synthetic=True)
