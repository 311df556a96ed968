"""What a latency key says: workload, precision and knobs read back from their texts, and the machine they ran on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm_mpq.errors import FileFormatError
from tvm_mpq.schema import (
    AttentionWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    FloatWorkload,
    LatencyKey,
    NormWorkload,
    Precision,
    Workload,
)
from tvm_mpq.targets import TargetRow


@dataclass(frozen=True)
class MachineFacts:
    """Facts of the target that decide how fast a kernel is."""

    l1d_bytes: int
    l2_bytes: int
    lanes: int  # float32 values of the widest vector
    threads: int = 1

    @classmethod
    def of(cls, row: TargetRow, threads: int = 1) -> MachineFacts:
        wide = 16 if "avx512f" in row.isa_features else 8 if "avx" in row.isa_features else 4
        return cls(row.l1d_bytes, row.l2_bytes, wide, threads)


def read_workload(text: str) -> Workload:
    """Inverse of `Workload.key`. Raises FileFormatError."""
    kind, _, rest = text.partition("(")
    cls = {c.kind: c for c in Workload.__subclasses__()}.get(kind)
    if cls is None:
        raise FileFormatError(f"not the key of a workload (got {text!r})")
    if cls is FloatWorkload:  # its summary is free text
        fingerprint, _, summary = rest[:-1].partition(",summary=")
        return FloatWorkload(fingerprint.removeprefix("fingerprint="), summary)
    values = dict(part.partition("=")[::2] for part in rest[:-1].split(","))
    try:
        named = [f for f in dataclasses.fields(cls) if f.name in values or f.name not in cls.rare]
        found = cls(**{f.name: _value(str(f.type), values[f.name]) for f in named})
    except (KeyError, ValueError) as e:
        raise FileFormatError(f"not the key of a workload (got {text!r}: {e})") from e
    if found.key != text:
        raise FileFormatError(f"not the key of a workload (got {text!r}; it reads as {found.key!r})")
    return found


def _value(kind: str, text: str) -> Any:
    if kind.startswith("tuple[tuple"):
        return tuple(tuple(map(int, part.split("x"))) for part in text.split("+"))
    if kind.startswith("tuple"):
        return tuple(map(int, text.split("x")))
    if kind == "bool":
        return text == "True"
    return {"int": int, "float": float}.get(kind, str)(text)


@dataclass(frozen=True)
class Entry:
    """One entry of the latency table, known or missing."""

    key: LatencyKey
    machine: MachineFacts

    @cached_property
    def workload(self) -> Workload:
        return read_workload(self.key.workload)

    @cached_property
    def precision(self) -> Precision:
        return Precision.parse(self.key.precision)

    @cached_property
    def knobs(self) -> Mapping[str, Any]:
        return dict(json.loads(self.key.knobs))

    @property
    def predictable(self) -> bool:
        """Whether `count_work` knows what it does: not a float operator's fingerprint, nor what only passes fuse."""
        return not isinstance(self.workload, FloatWorkload | AttentionWorkload | NormWorkload)

    @cached_property
    def operator_class(self) -> str:
        """Word for people, by which errors are told: `conv`, `pointwise`, `linear`, `depthwise`, `grouped`, `add`..."""
        w = self.workload
        if not isinstance(w, Conv2dWorkload):
            return w.kind
        if w.is_depthwise:
            return "depthwise"
        if w.groups > 1:
            return "grouped"
        if w.kernel != (1, 1):
            return "conv"
        return "linear" if w.in_height == 1 else "pointwise"

    @cached_property
    def stratum(self) -> str:
        """Kernels that follow one law: the same family doing the same kind of work."""
        w = self.workload
        parts = [self.key.family]
        if isinstance(w, Conv2dWorkload) and self.operator_class == "linear":
            parts.append("linear")
        if isinstance(w, ConvertWorkload):
            parts.append(f"{w.from_bits}->{w.to_bits}{' channels first' if w.channels_first else ''}")
        return " ".join(parts)

    @cached_property
    def shape_group(self) -> str:
        """Equal for entries that differ in precision, output format, residual or activation only.

        One of a group tells much about the others, so a fair test keeps them together.
        """
        w = self.workload
        plain = {"residual": False, "activation": "none", "mode": "", "from_bits": 0, "to_bits": 0}
        here = {f.name for f in dataclasses.fields(w)}
        return dataclasses.replace(w, **{k: v for k, v in plain.items() if k in here}).key
