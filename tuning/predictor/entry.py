"""What a latency key says: workload, precision and knobs read back from their texts, and the machine they ran on."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm_mpq.errors import FileFormatError, InvalidValueError, NoKernelError
from tvm_mpq.kernels.features import native_lanes
from tvm_mpq.kernels.registry import Kernel, Request, named_kernel
from tvm_mpq.kernels.work import Work
from tvm_mpq.schema import (
    Conv2dWorkload,
    ConvertWorkload,
    FloatWorkload,
    LatencyKey,
    Precision,
    Workload,
)
from tvm_mpq.targets import TargetRow, features


@dataclass(frozen=True)
class MachineFacts:
    """Facts of the target that decide how fast a kernel is."""

    l1d_bytes: int
    l2_bytes: int
    features: frozenset[str]  # as kernel requests carry them
    threads: int = 1

    @classmethod
    def of(cls, row: TargetRow, threads: int = 1) -> MachineFacts:
        return cls(row.l1d_bytes, row.l2_bytes, features(row), threads)

    @property
    def lanes(self) -> int:
        """Float32 values of the widest vector."""
        return native_lanes(self.features)


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


@functools.lru_cache(maxsize=4096)
def _knob_names(request: Request, family: str) -> frozenset[str]:
    """What a family calls its knobs."""
    return frozenset(named_kernel(request, family, {}).family.knob_space(request)[0])


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

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel that the key names. Raises NoKernelError where today's table has no such row, or other knobs."""
        request = Request(self.workload, self.precision, self.key.out_bits, self.machine.features, self.machine.threads)
        kernel = named_kernel(request, self.key.family, dict(self.knobs))
        known = _knob_names(request, self.key.family)
        if known != self.knobs.keys():
            raise NoKernelError(
                f"kernel family {self.key.family!r} has the knobs {sorted(known)} (got {sorted(self.knobs)})"
            )
        return kernel

    @property
    def work(self) -> Work:
        """What one run of the kernel does. Raises NoKernelError as `kernel`."""
        return _work(self)

    @cached_property
    def unpredictable(self) -> str | None:
        """Why nothing can be learned or said about it, or None."""
        try:
            if isinstance(self.workload, FloatWorkload):
                return "a float operator without a template is not predicted"
            self.kernel  # noqa: B018  named kernels are looked up when first asked for
        except (FileFormatError, InvalidValueError, NoKernelError) as e:
            return str(e)
        return None

    @property
    def predictable(self) -> bool:
        return self.unpredictable is None

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


@functools.lru_cache(maxsize=16384)
def _work(entry: Entry) -> Work:
    """Kept for equal entries, because a search asks for the same kernels again and again."""
    return entry.kernel.work
