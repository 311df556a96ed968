"""Which operators are neighbours: the second reads what the first makes, with no other weights between them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from pair_losses import median_precision, neighbours


def test_neighbours_across_operators_without_weights() -> None:
    def node(name: str, inputs: str, output: str) -> Any:
        return SimpleNamespace(name=name, inputs=inputs.split(), output=output)

    stem, left, right = node("stem", "x", "a"), node("left", "a", "b"), node("right", "a", "c")
    add, pool, fc = node("add", "b c", "d"), node("pool", "d", "e"), node("fc", "e", "y")
    nodes = [stem, left, right, add, pool, fc]
    graph: Any = SimpleNamespace(nodes=nodes, weighted=lambda: [stem, left, right, fc])
    assert neighbours(graph) == [("stem", "left"), ("stem", "right"), ("left", "fc"), ("right", "fc")]


def test_the_median_is_of_finite_losses_below_8_bits() -> None:
    losses = {"w8a8": 1e-9, "w4a8": 0.1, "w2a8": 0.4, "w2a4": 0.9, "w1a4": math.inf, "w1a2": math.inf, "w5a8": 0.0}
    assert median_precision({("a", p): x for p, x in losses.items()} | {("b", "w4a8"): 7.0}, "a") == "w2a8"
