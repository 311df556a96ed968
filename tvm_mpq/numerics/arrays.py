"""Short names for NumPy arrays of one dtype; shapes are in the docstrings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ByteArray = npt.NDArray[np.uint8]
Int8Array = npt.NDArray[np.int8]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
