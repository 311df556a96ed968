"""Where latencies come from: whoever plans asks a source for a table and does not care how it was filled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from tvm_mpq.costs.measured import fill
from tvm_mpq.costs.profiler import KernelProfiler
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.kernels.registry import Request
from tvm_mpq.targets import TargetRow


class LatencySource(Protocol):
    """Gives every request of a network its kernel and its time."""

    def table(self, requests: Sequence[Request], later: Collection[str] = ()) -> LatencyTable:
        """An entry for each request. Raises MeasurementError when one is left without any.

        later: keys of requests that a source which measures may estimate until a plan is chosen that needs them.
        """


@dataclass(frozen=True)
class MeasuredLatencies:
    """Implements `LatencySource`: what the database does not know is measured on the device."""

    profiler: KernelProfiler

    def table(self, requests: Sequence[Request], later: Collection[str] = ()) -> LatencyTable:
        return fill(self.profiler, requests, later=later)


@dataclass(frozen=True)
class PredictedLatencies:
    """Implements `LatencySource`: only a share of what the database does not know is measured, the rest predicted.

    fraction: the share, in (0, 1]. say: hears what is predicted, and what cannot be.
    """

    profiler: KernelProfiler
    row: TargetRow
    fraction: float
    say: Callable[[str], None]

    def table(self, requests: Sequence[Request], later: Collection[str] = ()) -> LatencyTable:
        from tvm_mpq.costs.predicted import fill_partly  # importing xgboost takes seconds where PyTorch is installed

        return fill_partly(self.profiler, requests, self.row, self.fraction, self.say)
