"""Calibration and evaluation data: `.npz` archives or arrays, checked against the model's inputs, cut into samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import DataError, MissingFileError
from tvm_mpq.execute.interpreter import Sample
from tvm_mpq.execute.prepare import InputSpecs
from tvm_mpq.numerics.archive import read_npz

LABELS = "labels"

SYNTHETIC_SAMPLES = 16


@dataclass(frozen=True)
class Dataset:
    """Samples for one model.

    arrays: input name -> its values for all runs of the network. Of most inputs a run takes `batch` rows of the first
    axis. Those named in `whole` have no batch axis: their arrays are [runs, *shape of the input].
    """

    arrays: dict[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.int64] | None
    batch: int
    synthetic: bool = False
    whole: frozenset[str] = frozenset()

    def __len__(self) -> int:
        """How many runs of the network the data give (an incomplete last batch is left out)."""
        return min(len(x) // self._rows(name) for name, x in self.arrays.items())

    def sample(self, i: int) -> Sample:
        found = {}
        for name, x in self.arrays.items():
            found[name] = np.asarray(x[i]) if name in self.whole else x[i * self.batch : (i + 1) * self.batch]
        return found

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
        arrays = {n: x[which] if n in self.whole else x[rows] for n, x in self.arrays.items()}
        return Dataset(arrays, labels, self.batch, self.synthetic, self.whole)

    def _rows(self, name: str) -> int:
        return 1 if name in self.whole else self.batch

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all values, hexadecimal, 16 digits."""
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.arrays[name]).tobytes())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Parts:
    """Calibration data in two: what weights are rounded on, and what tells how much plans lose.

    Rounding learns its samples by heart, a classifier's above all, which sees one position a sample: MobileNetV2 at
    w4a8 lost 0.008 nats (mean KL) on the 128 images that it was rounded on, 0.148 on the other calibration images and
    0.125 on new ones.
    """

    rounded: Dataset
    judged: Dataset


def parted(data: Dataset, count: int) -> Parts:
    """At most `count` runs to round on, evenly spaced, but no more than half; all others to judge on.

    Synthetic data, and those of fewer than 2 `FEWEST` runs, are both: half of them would do for neither.
    """
    runs = len(data)
    if data.synthetic or runs < 2 * FEWEST:
        return Parts(data.head(count), data)
    chosen = np.linspace(0, runs - 1, min(count, runs // 2)).astype(np.int64)
    return Parts(data.runs(chosen), data.runs(np.setdiff1d(np.arange(runs), chosen)))


_SAVE = "save numbers with numpy.savez(path, <input name>=array)"

FEWEST = 8
"""Samples below which activation ranges are mostly luck."""


def doubt(data: Dataset) -> str | None:
    """A line for the user where data are too poor to calibrate on: hardly any samples, or all of them the same."""
    runs = len(data)
    if runs > 1 and all((x == x[:1]).all() for x in data.arrays.values()):
        return f"all {runs} calibration samples are the same: ranges hold for nothing else; give real data with --data"
    if runs * data.batch < FEWEST:
        return f"calibration samples: only {runs * data.batch}; ranges are luck below {FEWEST}, better with 64 or more"
    return None


def load_dataset(source: str | Path | Mapping[str, Any] | npt.NDArray[Any] | None, inputs: InputSpecs) -> Dataset:
    """Read and check data for a model.

    An input of shape (n, ...) is given either as rows, (rows, ...), of which a run of the network takes n, or whole,
    (runs, n, ...), with an axis added in front; an input without axes as (runs,). The number of axes tells which. All
    inputs must come to the same number of runs. Where most inputs take a batch of samples, one of a single row may also
    be given with as many rows as there are samples: a run takes the row of its first sample.

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
    batch = batch_of(inputs)
    if source is None:
        return _synthetic(inputs, batch)
    arrays = _arrays(source, inputs)
    labels = arrays.pop(LABELS, None)
    unknown = sorted(set(arrays) - set(inputs))
    lacking = sorted(set(inputs) - set(arrays))
    if unknown or lacking:
        raise DataError(f"data arrays must be named after the model's inputs {sorted(inputs)} (got {sorted(arrays)})")
    for name, (shape, dtype) in inputs.items():
        _check(name, arrays[name], shape, dtype)
    arrays = _one_row_a_run(arrays, inputs, batch)
    runs = {name: _runs(arrays[name], shape) for name, (shape, _) in inputs.items()}
    if len(set(runs.values())) > 1:
        given = ", ".join(f"{name} {_pattern(arrays[name].shape)}, for {runs[name]} runs" for name in inputs)
        raise DataError(f"all inputs need the same number of samples, whole runs of the network (got {given})")
    if not next(iter(runs.values())):
        raise DataError(f"data must hold at least one batch of {batch} samples (got {min(map(len, arrays.values()))})")
    whole = frozenset(name for name, (shape, _) in inputs.items() if shape[:1] != (batch,))
    laid = {name: _laid(arrays[name], shape, name in whole) for name, (shape, _) in inputs.items()}
    counts = [len(x) for name, x in laid.items() if name not in whole]
    return Dataset(laid, _check_labels(labels, counts[0] if counts else runs.popitem()[1]), batch, whole=whole)


def batch_of(inputs: InputSpecs) -> int:
    """Samples that a run takes: the first axis that most inputs have, of equally many that of the first; else 1."""
    first = [shape[0] for shape, _ in inputs.values() if shape]
    return max(first, key=first.count) if first else 1


def _one_row_a_run(arrays: dict[str, npt.NDArray[Any]], inputs: InputSpecs, batch: int) -> dict[str, npt.NDArray[Any]]:
    """Of inputs of a single row that are given a row for each sample, the rows of the first samples of the runs."""
    batched = [n for n, (shape, _) in inputs.items() if shape[:1] == (batch,) and _is_rows(arrays[n], shape)]
    if batch == 1 or not batched:
        return arrays
    samples = len(arrays[batched[0]])
    single = [n for n, (shape, _) in inputs.items() if shape[:1] == (1,) and _is_rows(arrays[n], shape)]
    some = {n: arrays[n][: samples // batch * batch : batch] for n in single if len(arrays[n]) == samples}
    return {**arrays, **some}


def _is_rows(x: npt.NDArray[Any], shape: tuple[int, ...]) -> bool:
    return x.ndim == len(shape) and bool(shape)


def _runs(x: npt.NDArray[Any], shape: tuple[int, ...]) -> int:
    return len(x) // shape[0] if _is_rows(x, shape) else len(x)


def _laid(x: npt.NDArray[Any], shape: tuple[int, ...], whole: bool) -> npt.NDArray[Any]:
    """As `Dataset.arrays` holds it, whichever way it was given."""
    if whole and _is_rows(x, shape):
        return x[: len(x) // shape[0] * shape[0]].reshape(-1, *shape)
    return x if whole or _is_rows(x, shape) else x.reshape(-1, *shape[1:])


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
    return read_npz(path, _SAVE)


def _check(name: str, x: npt.NDArray[Any], shape: tuple[int, ...], dtype: str) -> None:
    if str(x.dtype) != dtype:
        raise DataError(f"data array {name!r} must be {dtype} (got {x.dtype}); convert it with .astype('{dtype}')")
    rows = _is_rows(x, shape) and x.shape[1:] == shape[1:]
    if not rows and (x.ndim != len(shape) + 1 or x.shape[1:] != shape):
        wanted = _pattern(("runs", *shape))
        if shape:
            wanted = f"{_pattern(('samples', *shape[1:]))}, or {wanted}"
        raise DataError(f"data array {name!r} must have shape {wanted} (got {_pattern(x.shape)})")
    if x.size == 0:
        raise DataError(f"data array {name!r} is empty; at least one sample is needed")
    if x.dtype.kind == "f":
        bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
        if bad.any():
            raise DataError(f"data array {name!r} holds NaN or infinity in sample {int(bad.argmax())}")


def _pattern(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


def _check_labels(labels: npt.NDArray[Any] | None, count: int) -> npt.NDArray[np.int64] | None:
    if labels is None:
        return None
    if labels.dtype.kind not in "iu":
        raise DataError(f"labels must be integers (got {labels.dtype})")
    if labels.shape != (count,):
        raise DataError(f"labels must have shape ({count},), one per sample (got {labels.shape})")
    return labels.astype(np.int64)


def _synthetic(inputs: InputSpecs, batch: int) -> Dataset:
    """Floats are standard normal, bytes any, other integers 0 or 1: they may be indices of a table."""
    rng = np.random.default_rng(0)
    arrays: dict[str, npt.NDArray[Any]] = {}
    whole = frozenset(name for name, (shape, _) in inputs.items() if shape[:1] != (batch,))
    for name, (shape, dtype) in inputs.items():
        sizes = (SYNTHETIC_SAMPLES, *shape) if name in whole else (SYNTHETIC_SAMPLES * batch, *shape[1:])
        if dtype.startswith("float"):
            arrays[name] = rng.standard_normal(sizes, dtype=np.float32).astype(dtype)
        else:
            arrays[name] = rng.integers(0, 256 if dtype == "uint8" else 2, sizes).astype(dtype)
    return Dataset(arrays, None, batch, synthetic=True, whole=whole)
