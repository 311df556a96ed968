"""Weights of a convolution over a dilated input, cut into those of its phases."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.shapes.geometry import Geometry
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload

T = TypeVar("T", bound=np.generic)


def phase_weights(w: Conv2dWorkload, weight: npt.NDArray[T]) -> list[npt.NDArray[T]]:
    """The weights of each phase of a dilated input (see `PhaseAxis`), filled up with zeros to equal taps.

    [O, KH, KW, I] to one [O, taps, taps, I] for each phase, those of one row of phases together; without dilation, all
    in one.
    """
    phases = Geometry.of(w, FLOAT_BITS).phases
    if phases is None:
        return [weight]
    rows, columns = phases
    found = []
    for a in range(rows.factor):
        for b in range(columns.factor):
            taps = weight[:, rows.first_tap(a) :: rows.factor, columns.first_tap(b) :: columns.factor]
            missing = (0, rows.taps - taps.shape[1]), (0, columns.taps - taps.shape[2])
            found.append(np.pad(taps, [(0, 0), *missing, (0, 0)]))
    return found
