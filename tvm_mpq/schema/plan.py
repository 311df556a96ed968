"""What the user allows, and the decision for one network."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypedDict

from tvm_mpq.errors import FileFormatError, InvalidValueError, MissingFileError, OutputError
from tvm_mpq.schema import json_types
from tvm_mpq.schema.formats import Precision, TensorQuant

Progress: TypeAlias = Callable[[int, int, str], None]
"""Hears often from long work: how much is done, of how much, and what is done."""


@dataclass(frozen=True)
class Budget:
    """What the user allows. None = not limited. At least one must be given, except for a plain `max_drop` default.

    latency_ratio: to uniform 8 bit, in (0, 1]; latency_ms > 0; size_mb > 0 (weights, 10^6 bytes);
    max_drop >= 0, accuracy points (top-1 against labels, or agreement with fp32 when there are no labels).
    """

    latency_ratio: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    max_drop: float | None = None
    energy_mj: float | None = None

    def __post_init__(self) -> None:
        for name in ("latency_ratio", "latency_ms", "size_mb", "energy_mj"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidValueError(f"budget {name} must be above 0 (got {value:g})")
        if self.latency_ratio is not None and self.latency_ratio > 1:
            raise InvalidValueError(
                f"budget latency_ratio is a share of uniform 8 bit and must be in (0, 1] (got {self.latency_ratio:g}); "
                "give latency_ms to allow more"
            )
        if self.max_drop is not None and not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise InvalidValueError(f"budget max_drop must be 0 or more accuracy points (got {self.max_drop:g})")


class _TensorQuantJson(TypedDict):
    bits: int
    scale: float
    zero_point: int


class _KernelJson(TypedDict):
    family: str
    knobs: dict[str, Any]


class _PlanCore(TypedDict):
    target: str
    tvm_target_attrs: dict[str, Any]
    operators: dict[str, str]
    tensors: dict[str, list[_TensorQuantJson]]


class _PlanJson(_PlanCore, total=False):
    """What a plan file holds beside its version; what is optional was not always there."""

    formats: dict[str, int]
    kernels: dict[str, _KernelJson]
    info: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The decision for one network on one target; `Realize(plan)` needs nothing else but the module."""

    target: str
    tvm_target_attrs: dict[str, Any]
    operators: dict[str, str]  # operator name -> precision text, e.g. "w4a8", "fp32"
    tensors: dict[str, list[TensorQuant]]  # tensor name -> one entry per bit-width
    formats: dict[str, int] = field(default_factory=dict)  # tensor name -> stored bits (32 = float32); absent: by rule
    kernels: dict[str, dict[str, Any]] = field(default_factory=dict)  # Request.key -> {"family": ..., "knobs": {...}}
    info: dict[str, Any] = field(default_factory=dict)  # free, for reports: latencies, solver, versions

    VERSION: ClassVar[int] = 1

    @property
    def threads(self) -> int:
        """Threads that its kernels are laid out for."""
        return int(self.tvm_target_attrs.get("num-cores", 1))

    def precision(self, operator: str) -> Precision:
        return Precision.parse(self.operators[operator])

    def quant(self, tensor: str, bits: int) -> TensorQuant:
        """Raises InvalidValueError when the plan has no such tensor at these bits."""
        for q in self.tensors.get(tensor, ()):
            if q.bits == bits:
                return q
        known = ", ".join(str(q.bits) for q in self.tensors.get(tensor, ())) or "none"
        raise InvalidValueError(
            f"plan has no {bits} bit range for tensor {tensor!r} (it has: {known}); calibrate the model again with "
            f"precisions of {bits} bit activations offered, or name others in the plan"
        )

    def tvm_target(self) -> Any:
        """The `tvm.target.Target` to compile with (the only place here that needs TVM)."""
        import tvm

        try:
            return tvm.target.Target(dict(self.tvm_target_attrs))
        except Exception as e:  # TVM raises whatever its checks do
            attrs = reprlib.repr(self.tvm_target_attrs)
            raise FileFormatError(f"the plan's tvm_target_attrs are none of TVM's targets (got {attrs})") from e

    def save(self, path: str | Path) -> None:
        """Raises OutputError when the file cannot be written."""
        text = json.dumps({"version": self.VERSION, **dataclasses.asdict(self)}, indent=1, sort_keys=True)
        try:
            Path(path).write_text(text + "\n", encoding="utf-8")
        except OSError as e:
            raise OutputError(f"cannot write plan {str(path)!r}: {e.strerror}") from e

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Raises MissingFileError or FileFormatError."""
        try:
            data = json_types.parse(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as e:
            raise MissingFileError(f"no plan file at {str(path)!r}") from e
        except (ValueError, OSError) as e:
            raise FileFormatError(f"{str(path)!r} is not a plan file: {e}") from e
        if not isinstance(data, dict) or data.pop("version", None) != cls.VERSION:
            raise FileFormatError(f"{str(path)!r} is not a plan file of version {cls.VERSION}")
        try:
            data = json_types.checked(data, _PlanJson, "plan")
            data["tensors"] = {k: [_tensor_quant(k, q) for q in v] for k, v in data["tensors"].items()}
            plan = cls(**data)
        except (ValueError, TypeError) as e:
            raise FileFormatError(f"{str(path)!r} is not a plan file: {e}") from e
        for text in plan.operators.values():
            Precision.parse(text)
        return plan


def _tensor_quant(tensor: str, data: _TensorQuantJson) -> TensorQuant:
    """Raises ValueError for numbers that describe no integers."""
    bits, scale, zero = data["bits"], data["scale"], data["zero_point"]
    if not (1 <= bits <= 8 and math.isfinite(scale) and scale > 0 and 0 <= zero < 2**bits):
        raise ValueError(f"a range of tensor {tensor!r} is none: {bits} bits, scale {scale:g}, zero point {zero}")
    return TensorQuant(**data)


def precision_counts(precisions: Iterable[str]) -> str:
    """How many operators run at each precision; empty where there are none.

    >>> precision_counts(["w8a8", "w4a8", "w8a8"])
    '1 x w4a8, 2 x w8a8'
    """
    return ", ".join(f"{n} x {precision}" for precision, n in sorted(Counter(precisions).items()))
