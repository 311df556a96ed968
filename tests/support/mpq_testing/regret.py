"""What an image is expected to lose, written plainly: what `tvm_mpq.select.paired` estimates from few images."""

from __future__ import annotations

import numpy as np

from tvm_mpq.select.paired import Doubles, softmax


def regrets(reference: Doubles, changed: Doubles, temperature: float = 1.0) -> Doubles:
    """Expected accuracy lost on each image: p[arg max reference] - p[arg max changed], p = softmax(reference / T).

    >>> regrets(np.log([[0.6, 0.4], [0.9, 0.1]]), np.array([[0.0, 1.0], [1.0, 0.0]])).round(3).tolist()
    [0.2, 0.0]
    """
    p = softmax(reference / temperature)
    rows = np.arange(len(p))
    return np.asarray(p[rows, reference.argmax(axis=1)] - p[rows, changed.argmax(axis=1)])
