"""The solver's tables against what is lowered: what was priced is what runs."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpq_testing.onnx_models import GRAPHS
from tvm_mpq import targets
from tvm_mpq.calibrate import learn
from tvm_mpq.costs.table import LatencyTable, weight_bytes
from tvm_mpq.execute import network
from tvm_mpq.execute.prepare import Prepared, prepare
from tvm_mpq.kernels.registry import Request, default_kernel
from tvm_mpq.passes.lowering import KernelStep
from tvm_mpq.pipeline.problem import Space, build_problem
from tvm_mpq.schema import FLOAT_BITS, FP32, W4A8, W8A8, Conv2dWorkload, TensorQuant
from tvm_mpq.select.ilp import Limits, Solution, solve
from tvm_mpq.select.problem import Problem


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("models")

    @lru_cache
    def get(name: str) -> Prepared:
        path: Path = folder / f"{name}.onnx"
        onnx.save(GRAPHS[name](), str(path))
        return prepare(path)

    return get


COSTS = LatencyTable("default kernels")


def invented_us(request: Request, seed: int) -> float:
    """1 to 16 microseconds, the same for equal requests."""
    digest = hashlib.sha256(f"{seed}{request.key}".encode()).digest()
    return 1.0 + digest[0] % 16


def test_operators_say_what_they_compute(prepared) -> None:
    """Methods that look at shapes find them in the problem."""
    found = prepared(next(iter(GRAPHS)))
    space = Space(found.graph, found.features, 1)
    problem = build_problem(space, lambda r: invented_us(r, 0), COSTS, {}, fixed_us=0.0, call_us=0.0)
    shapes = {o.name: o.workload for o in problem.operators if isinstance(o.workload, Conv2dWorkload)}
    assert shapes == {node.name: node.workload for node in found.graph.weighted()} != {}


def test_what_must_write_floats_never_waits(prepared) -> None:
    """Of a chain the last operator's result is the network's own; what reads the others' takes bytes."""
    found = prepared("residual")
    space = Space(found.graph, found.features, 1)
    later = space.later()
    for node in found.graph.weighted():
        writers = [
            options[FLOAT_BITS]
            for label, options in space.options(node).items()
            if len(options) == 2 and label not in ("w8a8", "fp32")
        ]
        if node.output in found.graph.outputs:
            assert not {r.key for r in writers} & later
        else:
            assert writers and {r.key for r in writers} <= later
    assert all(request.out_bits == FLOAT_BITS for request in space.requests() if request.key in later)


def test_a_precision_that_breaks_the_network_is_not_offered(prepared) -> None:
    found = prepared(next(iter(GRAPHS)))
    node = next(n for n in found.graph.weighted() if len(n.candidates) > 1)
    space = Space(found.graph, found.features, 1)
    losses = {(node.name, "w8a8"): math.inf}
    problem = build_problem(space, lambda r: invented_us(r, 0), COSTS, losses, fixed_us=0.0, call_us=0.0)
    offered = {c.label for c in problem.operator(node.name).choices}
    assert "w8a8" not in offered and "fp32" in offered


def problem_of(found: Prepared, seed: int) -> Problem:
    space = Space(found.graph, found.features, 1)
    rng = np.random.default_rng(seed)
    losses = {
        (n.name, c): float(rng.integers(1, 9)) for n in found.graph.quantizable() for c in n.candidates if c != "fp32"
    }
    return build_problem(space, lambda r: invented_us(r, seed), COSTS, losses, fixed_us=0.0, call_us=0.0)


def lowered_us(found: Prepared, solution: Solution, seed: int) -> float:
    quants = [TensorQuant(8, 0.03125, 100), TensorQuant(4, 0.5, 6)]
    ranges = dict.fromkeys(found.graph.integer_tensors(), quants)
    ranges |= {f"{n.name}:pre": quants for n in found.graph.nodes}
    operators = {n.name: solution.choices[n.name] for n in found.graph.quantizable()}
    plan = dataclasses.replace(learn.bare_plan(found, ranges), operators=operators, formats=solution.formats)
    steps = network.all_steps(found, plan)
    return sum(invented_us(s.kernel.request, seed) for s in steps if isinstance(s, KernelStep))


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_the_price_is_of_the_kernels_that_run(prepared, name: str) -> None:
    """Whatever latencies say, a solution lowers to just the kernels and boundaries that the solver paid for."""
    found = prepared(name)
    for seed in range(2):
        problem = problem_of(found, seed)
        fastest = solve(problem, objective="latency")
        solutions = [fastest]
        solutions.append(solve(problem, Limits(latency_us=fastest.latency_us * 1.2), objective="loss"))
        for solution in solutions:
            assert lowered_us(found, solution, seed) == pytest.approx(solution.latency_us), (seed, solution.goal)


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_every_request_is_asked_for(prepared, name: str) -> None:
    """What the problem prices is in the list to be measured, and there once."""
    found = prepared(name)
    space = Space(found.graph, found.features, 1)
    asked = {r.key for r in space.requests()}
    assert len(asked) == len(space.requests())
    priced: set[str] = set()

    def spy(request: Request) -> float:
        priced.add(request.key)
        return 1.0

    build_problem(space, spy, COSTS, {}, fixed_us=0.0, call_us=0.0)
    assert priced == asked


def test_inputs_come_and_outputs_leave_as_floats(prepared) -> None:
    problem = problem_of(prepared("two_outputs"), 0)
    tensors = problem.tensor_by_name
    graph = prepared("two_outputs").graph
    assert all(tensors[name].fixed == FLOAT_BITS for name in graph.inputs)
    assert all(tensors[name].required == FLOAT_BITS for name in graph.outputs)


def test_operators_offer_their_candidates(prepared) -> None:
    found = prepared("residual")
    problem = problem_of(found, 0)
    for node in found.graph.weighted():
        operator = problem.operator(node.name)
        assert [c.label for c in operator.choices] == list(node.candidates)
        assert operator.exact_inputs == (True, *[False] * (len(node.inputs) - 1))
    assert {c.label for c in problem.operator("concat15").choices} == {"fp32", "a8"}


def test_weight_bytes_are_what_the_library_carries() -> None:
    work = Conv2dWorkload(1, 1, 1, 576, 128, (1, 1))  # kernels of many positions may store weights wider
    features = targets.features(targets.local_row())
    sizes = {}
    for precision in (FP32, W8A8, W4A8):
        request = Request(work, precision, FLOAT_BITS if precision.is_float else 8, features)
        sizes[precision] = weight_bytes(default_kernel(request))
    assert sizes[FP32] == pytest.approx(4 * work.weight_count, rel=0.02)
    assert sizes[W8A8] == pytest.approx(work.weight_count, rel=0.05)
    assert sizes[W4A8] <= sizes[W8A8]  # packed where the instruction set makes that fast
