"""What a candidate's rounds say: which of them count, their median and spread, and whether that is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tvm_mpq.schema import FailureKind
from tvm_mpq.tuning.devices.baseline import SpeedBaseline


class AcceptanceLimits(Protocol):
    """The part of the measurement settings that decides."""

    @property
    def repeats(self) -> int: ...

    @property
    def max_relative_iqr(self) -> float: ...

    @property
    def negligible_iqr_us(self) -> float: ...

    @property
    def max_drift(self) -> float: ...


@dataclass(frozen=True)
class TimedRound:
    """One round of one candidate, and the sentinel's readings around it, all in microseconds."""

    value_us: float
    before_us: float
    after_us: float


@dataclass(frozen=True)
class Verdict:
    """A median and spread, or the reason why there is none."""

    median_us: float | None = None
    iqr_us: float | None = None
    repeats: int = 0
    failure: str | None = None
    kind: FailureKind | None = None  # of the failure


def summarize_samples(samples: Sequence[TimedRound], baseline: SpeedBaseline, limits: AcceptanceLimits) -> Verdict:
    """Accept or refuse a candidate: the newest `repeats` samples near the sentinel's usual time count."""
    if not samples:
        return Verdict(
            failure="it was never timed, since other kernels kept crashing the device", kind=FailureKind.UNTIMED
        )
    usual_us = baseline.usual_us()
    near = limits.max_drift * usual_us
    calm = [s for s in samples if max(abs(s.before_us - usual_us), abs(s.after_us - usual_us)) <= near]
    kept = [s.value_us for s in calm[-limits.repeats :]]
    if len(kept) < limits.repeats:
        readings = [reading for s in samples for reading in (s.before_us, s.after_us)]
        return Verdict(
            failure=f"the machine's speed drifts: the sentinel took {min(readings):.1f} to {max(readings):.1f} us "
            f"around {len(samples)} rounds, and only {len(kept)} of the {limits.repeats} needed were within "
            f"{limits.max_drift:.0%} of its usual {usual_us:.1f} us",
            kind=FailureKind.DRIFT,
        )
    low, median, high = (float(v) for v in np.percentile(kept, [25, 50, 75]))
    if high - low > max(limits.max_relative_iqr * median, limits.negligible_iqr_us):
        return Verdict(
            failure=f"too noisy: IQR {(high - low) / median:.1%} of the median {median:.3g} us after {len(samples)} "
            f"rounds (allowed {limits.max_relative_iqr:.1%})",
            kind=FailureKind.NOISE,
        )
    return Verdict(median, high - low, len(kept))
