"""How carefully kernels, whole networks and single calls are measured."""

from __future__ import annotations

import dataclasses

from tvm_mpq.tuning.measure.kernels import MeasureSettings

KERNELS = MeasureSettings(max_relative_iqr=0.2, retakes=6)
"""For kernels and networks on a machine that other people use too: more patience, and a record shows its spread."""

NETWORKS = dataclasses.replace(KERNELS, repeats=15, min_repeat_ms=10.0, retakes=2)
"""For whole networks: few, and what their weights meet in shared caches changes from run to run. Medians of seven runs
of MobileNetV2 were 2 to 3 % apart, which is more than what the whole-network model is to tell."""

CALLS = MeasureSettings(max_relative_iqr=1.0, max_drift=10.0, repeats=21)
"""A call costs a fraction of a microsecond: its own scatter is large beside it and small beside any kernel."""

PROFILE = MeasureSettings(repeats=5, min_repeat_ms=2.0)
"""For every call of a network: to see which are slow, not to choose between kernels."""
