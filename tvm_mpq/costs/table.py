"""The best known kernel of each request, its time, and where that came from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tvm_mpq.kernels.registry import Kernel, Request, default_kernel
from tvm_mpq.kernels.work import array_bytes
from tvm_mpq.schema import LatencyKey, LatencyRecord

OPTIMISM = 0.3
"""A kernel predicted too slow is never chosen, so never measured, and the error stays; one predicted too fast is found
out. Plans of MobileNetV2 from tables measured to 0.3 were up to 3.2 % slower than from full ones without it, 0.9 %
with 0.3, for 2 to 5 % more of the entries measured (replays over three loss limits)."""


def optimistic_estimate_us(predicted_us: float, stated_error: float) -> float:
    """A prediction, moved by `OPTIMISM` towards the fast end of what its error allows."""
    return predicted_us / math.pow(1 + stated_error, OPTIMISM)


def weight_bytes(kernel: Kernel) -> int:
    """Bytes of the constants this kernel will carry in the library: every buffer but activations and the output."""
    return array_bytes(kernel.family.parameters(kernel.request, kernel.knobs).constants)


@dataclass
class LatencyTable:
    """Best known kernel and its time for each request key, and where the entries came from."""

    target: str
    records: dict[str, LatencyRecord] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    measured: int = 0
    cached: int = 0
    refused: list[LatencyRecord] = field(default_factory=list)
    predictor: dict[str, Any] | None = None  # held-out errors, where entries were predicted

    def latency_us(self, request: Request) -> float:
        """Median microseconds; infinite when every kernel for it failed."""
        record = self.records.get(request.key)
        return math.inf if record is None or record.median_us is None else record.median_us

    def optimistic_us(self, request: Request) -> float:
        """The same; a prediction counts as its optimistic estimate."""
        record = self.records.get(request.key)
        error = 0.0 if record is None else record.stated_error or 0.0
        return optimistic_estimate_us(self.latency_us(request), error)

    def kernel(self, request: Request) -> Kernel:
        return self.kernels.get(request.key) or default_kernel(request)

    def size_bytes(self, request: Request) -> int:
        """What the constants of an operator with weights take."""
        return weight_bytes(self.kernel(request))

    def energy_mj(self, request: Request) -> float | None:
        """Millijoule of one run, None where the source knows none."""
        record = self.records.get(request.key)
        return None if record is None else record.energy_mj

    def offer(self, kernel: Kernel, record: LatencyRecord) -> None:
        """Keep the faster of what is known and this; a measurement takes the place of its own prediction."""
        old = self.records.get(kernel.request.key)
        if record.median_us is None:
            self.refused.append(record)
        elif old is None or old.key == record.key or record.median_us < self.latency_us(kernel.request):
            self.records[kernel.request.key] = record
            self.kernels[kernel.request.key] = kernel

    def predicted(self) -> dict[LatencyKey, Kernel]:
        """The kernels whose times are predictions."""
        return {r.key: self.kernels[name] for name, r in self.records.items() if r.provenance == "predicted"}

    def forget_predictions(self, kernels: Iterable[Kernel]) -> None:
        """Take back what was only predicted for these kernels."""
        for name in {kernel.request.key for kernel in kernels}:
            if name in self.records and self.records[name].provenance == "predicted":
                del self.records[name], self.kernels[name]

    @property
    def entries(self) -> dict[str, int]:
        """How many were measured now, are predicted, and had been measured before."""
        return {"measured": self.measured, "predicted": len(self.predicted()), "cached": self.cached}
