"""Activations of which every rounding is stated: how far they are from exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_mpq.numerics import fused_activations
from tvm_mpq.numerics.activations import apply

ULPS = {"sigmoid": 3, "tanh": 6}


@pytest.mark.parametrize("name", ULPS)
def test_units_in_the_last_place(name: str, rng: np.random.Generator) -> None:
    x = np.concatenate([rng.uniform(-79, 79, 20000), rng.uniform(-4, 4, 20000), 10 ** rng.uniform(-30, 0, 2000)])
    x = x.astype(np.float32)
    wide = x.astype(np.float64)
    exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    off = np.abs(fused_activations.apply(name, x) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert 1 < off.max() <= ULPS[name], x[off.argmax()]


def test_ends() -> None:
    """Never beyond 1, never subnormal; what is no number stays none."""
    x = np.array([np.inf, 200, -np.inf, -200, -0.0, np.nan], np.float32)
    np.testing.assert_array_equal(fused_activations.apply("tanh", x), np.array([1, 1, -1, -1, 0, np.nan], np.float32))
    least = fused_activations.apply("sigmoid", x[2:3])[0]
    np.testing.assert_array_equal(fused_activations.apply("sigmoid", x), np.float32([1, 1, least, least, 0.5, np.nan]))
    assert np.finfo(np.float32).tiny < least < 1e-34


@pytest.mark.parametrize("name", ["relu", "none", "clip:-0.5:1.5", "leaky_relu:0.25"])
def test_lines(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(0, 2, 1000).astype(np.float32)
    np.testing.assert_array_equal(fused_activations.apply(name, x), apply(name, x))
