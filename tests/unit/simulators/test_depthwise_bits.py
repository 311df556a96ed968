"""What AMED found: with little memory, depthwise layers get fewer bits, for carrying their maps is what takes time."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tvm_mpq.kernels.registry import Request
from tvm_mpq.schema import Conv2dWorkload, ConvertWorkload, Precision
from tvm_mpq.select.ilp import Solution, solve
from tvm_mpq.select.problem import Choice, Limits, Operator, Problem, Tensor
from tvm_mpq.simulators.machines import simulator_named
from tvm_mpq.simulators.source import SimulatedLatencies
from tvm_mpq.tuning.database.latencies import LatencyDatabase

pytestmark = pytest.mark.skipif(importlib.util.find_spec("scalesim") is None, reason="the extra `sim` is not installed")

PRECISIONS = tuple(map(Precision.parse, ("w8a8", "w8a4", "w4a8", "w4a4", "w2a2")))
BLOCKS = ((16, 96, 24, 16), (24, 96, 24, 16), (24, 144, 32, 8))  # input, wide and output channels; size


def layers() -> Iterator[Conv2dWorkload]:
    """Three blocks of MobileNetV2's shape: wide, depthwise, narrow."""
    for inputs, wide, outputs, size in BLOCKS:
        yield Conv2dWorkload(1, size, size, inputs, wide, (1, 1))
        yield Conv2dWorkload(1, size, size, wide, wide, (3, 3), padding=(1, 1, 1, 1), groups=wide)
        yield Conv2dWorkload(1, size, size, wide, outputs, (1, 1))


def problem_on(source: SimulatedLatencies) -> Problem:
    """The chain of all layers; every bit of every layer loses the same, so that cost alone decides where bits go."""
    chain = list(layers())
    kernels = {(i, p): Request(w, p, 8, frozenset()) for i, w in enumerate(chain) for p in PRECISIONS}
    shapes = [(w.batch, w.in_height, w.in_width, w.in_channels) for w in chain]
    boundaries = {shape: Request(ConvertWorkload(shape, 8, 8), PRECISIONS[0], 8, frozenset()) for shape in shapes}
    table = source.table([*kernels.values(), *boundaries.values()])
    operators = []
    for i in range(len(chain)):
        choices = [
            Choice(
                str(p),
                p.activation_bits,
                {8: table.latency_us(kernels[i, p])},
                loss=float(16 - p.weight_bits - p.activation_bits),
            )
            for p in PRECISIONS
        ]
        operators.append(Operator(f"layer{i}", (f"t{i}",), f"t{i + 1}", tuple(choices), (True,)))
    tensors = [Tensor("t0", (8, 4, 2), fixed=8, convert_us={(8, 4): 0.0, (8, 2): 0.0})]
    for i, shape in enumerate(shapes[1:], 1):
        us = table.latency_us(boundaries[shape])
        tensors.append(Tensor(f"t{i}", (8, 4, 2), {(a, b): us for a in (8, 4, 2) for b in (8, 4, 2) if a != b}))
    tensors.append(Tensor(f"t{len(chain)}", (8,)))
    return Problem(tuple(operators), tuple(tensors))


def mean_bits(solution: Solution, *, depthwise: bool) -> float:
    """Of the activations that these layers read."""
    found = [
        Precision.parse(solution.choices[f"layer{i}"]).activation_bits
        for i, work in enumerate(layers())
        if work.is_depthwise == depthwise
    ]
    return sum(found) / len(found)


def test_little_memory_takes_bits_from_depthwise_layers(tmp_path: Path) -> None:
    depthwise, others = {}, {}
    for name in ("scalesim:systolic", "scalesim:low_memory"):
        simulator = simulator_named(name)
        assert simulator is not None
        with LatencyDatabase(tmp_path / "db") as db:
            problem = problem_on(SimulatedLatencies(simulator, db))
        eight = sum(o.choice("w8a8").latency_us[8] for o in problem.operators)
        least = solve(problem).latency_us
        found = solve(problem, Limits(latency_us=(eight + least) / 2), "loss")
        depthwise[name], others[name] = mean_bits(found, depthwise=True), mean_bits(found, depthwise=False)
    plenty, little = depthwise
    assert depthwise[plenty] == 8.0 > others[plenty]
    assert depthwise[little] < depthwise[plenty] - 1 and depthwise[little] <= others[little]
