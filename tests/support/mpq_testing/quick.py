"""Measuring that takes little time; a busy machine gives bad numbers, and where this is used they do not matter."""

from __future__ import annotations

import pytest

from tvm_mpq.tuning.measure import presets
from tvm_mpq.tuning.measure.kernels import MeasureSettings


def measure_quickly(patch: pytest.MonkeyPatch, settings: MeasureSettings) -> None:
    """For kernels, calls and whole networks alike."""
    for name in ("KERNELS", "CALLS", "NETWORKS"):
        patch.setattr(presets, name, settings)
