"""What the built network answered when it was verified, kept in its folder: a later check compares image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import FileFormatError, MissingFileError
from tvm_mpq.execute.accuracy import relative_error
from tvm_mpq.numerics.archive import read_npz

FILE = "verified.npz"

MOST_BYTES = 2**20
"""Of fp32 outputs that are kept where they are no classes; at least one sample's are."""

Outputs = Sequence[npt.NDArray[Any]]
"""The first output of each sample."""


@dataclass(frozen=True)
class VerifiedOutputs:
    """Answers of both networks to the evaluation data, in its order.

    Of classifiers `fp32` and `built` are int32[images], the classes. Of others `fp32` holds the outputs of the first
    samples, float32[samples, ...], and `built` float64[samples], the built network's relative errors on them.
    """

    classifies: bool
    fp32: npt.NDArray[Any]
    built: npt.NDArray[Any]

    @classmethod
    def of(cls, fp32: Outputs, built: Outputs, *, classifies: bool) -> VerifiedOutputs:
        """Of at least one sample."""
        if classifies:
            return cls(True, classes(fp32), classes(built))
        kept = max(1, MOST_BYTES // max(1, fp32[0].nbytes))
        first = np.stack(list(fp32[:kept]))
        return cls(False, first, errors(built[:kept], first))

    def save(self, folder: Path) -> None:
        np.savez_compressed(folder / FILE, classifies=np.array(self.classifies), fp32=self.fp32, built=self.built)

    @classmethod
    def load(cls, folder: Path) -> VerifiedOutputs:
        """Raises MissingFileError or FileFormatError."""
        path = folder / FILE
        try:
            archive = read_npz(path)
            found = cls(bool(archive["classifies"]), archive["fp32"], archive["built"])
        except FileNotFoundError as e:
            raise MissingFileError(
                f"no {FILE} in {str(folder)!r}, so that nothing tells what it answered; optimize again, or give "
                "--against FOLDER"
            ) from e
        except (FileFormatError, KeyError, ValueError) as e:
            raise FileFormatError(f"{str(path)!r} is not what tvm-mpq optimize writes ({e}); optimize again") from e
        numbers = ("i", "i") if found.classifies else ("f", "f")
        if (found.fp32.dtype.kind, found.built.dtype.kind) != numbers or (
            found.built.ndim != 1 or found.fp32.shape[:1] != found.built.shape or not len(found.built)
        ):
            raise FileFormatError(f"{str(path)!r} is not what tvm-mpq optimize writes; optimize again")
        return found


def classes(outputs: Outputs) -> npt.NDArray[np.int32]:
    """int32[images]: the arg max of each row."""
    return np.concatenate([o.reshape(len(o), -1).argmax(axis=-1) for o in outputs]).astype(np.int32)


def errors(outputs: Outputs, reference: Outputs | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """float64[samples]: relative error of each."""
    return np.array([relative_error(o, r) for o, r in zip(outputs, reference, strict=True)])
