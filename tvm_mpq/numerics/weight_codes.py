"""Weights that were quantized elsewhere: integer codes and scales that take the place of rounding to nearest."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import FileFormatError, InvalidValueError, MissingFileError, OutputError
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.archive import read_npz

WeightKey = tuple[str, int]
"""An operator's name and the bits of its weight."""


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """One operator's weight: real value = code * scale of its output channel.

    Attributes
    ----------
    codes : int8[O, KH, KW, I / groups]
        In `weight_range(bits)`; at one bit -1 and +1 only.
    scales : float32[O]
        Real units per integer step, above 0.
    bits : int
        1..8.
    bias : float32[O] or None
        What is added to each output channel, in real units, in place of the operator's own bias: rounding moves the
        mean of a channel, and a bias that was corrected moves it back. None: the operator's own.

    Raises
    ------
    InvalidValueError
        If dtypes, shapes or ranges are others.
    """

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    bits: int
    bias: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        codes, scales = self.codes, self.scales
        low, high = weight_range(self.bits)
        if codes.dtype != np.int8 or scales.dtype != np.float32:
            raise InvalidValueError(f"codes must be int8 and scales float32 (got {codes.dtype} and {scales.dtype})")
        if codes.ndim == 0 or scales.shape != codes.shape[:1]:
            raise InvalidValueError(f"there must be one scale per output channel (got {scales.shape} of {codes.shape})")
        if codes.size and not (low <= codes.min() and codes.max() <= high):
            raise InvalidValueError(
                f"codes of {self.bits} bits must be in [{low}, {high}] (got {codes.min()} to {codes.max()})"
            )
        if self.bits == 1 and not codes.all():
            raise InvalidValueError("codes of 1 bit must be -1 or +1 (got 0)")
        if not (np.isfinite(scales) & (scales > 0)).all():
            raise InvalidValueError("scales must be finite and above 0")
        bias = self.bias
        if bias is None:
            return
        if bias.dtype != np.float32 or bias.shape != scales.shape:
            raise InvalidValueError(f"a bias must be float32{list(scales.shape)} (got {bias.dtype}{list(bias.shape)})")
        if not np.isfinite(bias).all():
            raise InvalidValueError("a bias must be finite")

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of bits, codes, scales and bias, hexadecimal, 16 digits."""
        content = hashlib.sha256(repr((self.bits, self.codes.shape)).encode())
        content.update(np.ascontiguousarray(self.codes).tobytes())
        content.update(np.ascontiguousarray(self.scales).tobytes())
        if self.bias is not None:
            content.update(b"bias" + np.ascontiguousarray(self.bias).tobytes())
        return content.hexdigest()[:16]


class WeightCodes(Mapping[WeightKey, QuantizedWeight]):
    """Quantized weights of a network by operator and bits. Whatever is not here is rounded to nearest.

    It belongs to a plan as a file beside plan.json does: the plan names precisions, this the integers.
    """

    def __init__(
        self, weights: Mapping[str, QuantizedWeight] | Mapping[WeightKey, QuantizedWeight] | None = None
    ) -> None:
        found: dict[WeightKey, QuantizedWeight] = {}
        for key, weight in (weights or {}).items():
            operator = key if isinstance(key, str) else key[0]
            found[operator, weight.bits] = weight
        self._weights = found

    def __getitem__(self, key: WeightKey) -> QuantizedWeight:
        return self._weights[key]

    def __iter__(self) -> Iterator[WeightKey]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def digest(self) -> str:
        """sha256 of everything, hexadecimal; equal for equal contents in any order."""
        rows = sorted((*key, weight.digest) for key, weight in self._weights.items())
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write an `.npz`. Raises OutputError."""
        keys = sorted(self._weights)
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "operators": np.array([name for name, _ in keys], dtype=np.str_),
            "bits": np.array([bits for _, bits in keys], dtype=np.int64),
        }
        for i, key in enumerate(keys):
            weight = self._weights[key]
            arrays[f"codes{i}"], arrays[f"scales{i}"] = weight.codes, weight.scales
            if weight.bias is not None:
                arrays[f"bias{i}"] = weight.bias
        try:
            with open(path, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        except OSError as e:
            raise OutputError(f"cannot write weight codes {str(path)!r}: {e.strerror}") from e

    @classmethod
    def load(cls, path: str | Path) -> WeightCodes:
        """Read what `save` wrote. Raises MissingFileError or FileFormatError."""
        try:
            archive = read_npz(path)
            names, bits = archive["operators"], archive["bits"]
            found = {}
            for i, (name, b) in enumerate(zip(names, bits, strict=True)):
                arrays = archive[f"codes{i}"], archive[f"scales{i}"], int(b), archive.get(f"bias{i}")
                try:
                    found[str(name), int(b)] = QuantizedWeight(*arrays)
                except InvalidValueError as e:
                    raise FileFormatError(f"{str(path)!r} is damaged: operator {str(name)!r}: {e}") from e
            return cls(found)
        except FileNotFoundError as e:
            raise MissingFileError(f"no weight codes at {str(path)!r}") from e
        except FileFormatError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
            raise FileFormatError(f"{str(path)!r} is not a file of weight codes: {e}") from e
