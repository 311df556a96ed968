"""A device's usual speed, as the sentinel shows it."""

from __future__ import annotations

from collections import deque

import numpy as np


class SpeedBaseline:
    """A device's usual speed, as the sentinel shows it: what holds for one candidate must hold for all in a table.

    On a machine that others use too, the undisturbed speed is the fast one, so the lower quartile of the readings
    counts. Older readings are forgotten: a change for good, such as a hot board's lower clock, is believed in the end.
    """

    REMEMBERED = 600

    def __init__(self) -> None:
        self._readings_us: deque[float] = deque(maxlen=self.REMEMBERED)

    def add(self, reading_us: float) -> None:
        self._readings_us.append(reading_us)

    def usual_us(self) -> float:
        """Microseconds of the sentinel when nothing disturbs it. Of at least one reading."""
        return float(np.percentile(self._readings_us, 25))
