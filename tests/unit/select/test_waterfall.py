import random

import pytest

from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor
from tvm_mpq.select.waterfall import CONVERSIONS, REST, waterfall


@pytest.mark.parametrize("seed", range(4))
def test_steps_lead_from_one_plan_to_the_other(network, seed):
    problem = network(8, seed)
    rng = random.Random(seed)
    plans = [{o.name: rng.choice(o.choices).label for o in problem.operators} for _ in range(2)]
    start, end = (cost(problem, plan) for plan in plans)
    steps = waterfall(problem, start, end)
    assert sum(step.change_us for step in steps) == pytest.approx(end.latency_us - start.latency_us)
    assert {step.name for step in steps} <= {o.name for o in problem.operators} | {CONVERSIONS, REST}


def test_parts_are_told_apart():
    conv = Operator("conv", ("x",), "y", (Choice("w8a8", 8, {8: 3.0}), Choice("fp32", 32, {32: 9.0})), (True,))
    pool = Operator("pool", ("y",), "z", (Choice("a8", 8, {32: 2.0}), Choice("fp32", 32, {32: 5.0})), (False,))
    tensors = (
        Tensor("x", (32, 8), {(32, 8): 1.5}, fixed=32),
        Tensor("y", (32, 8), {(8, 32): 1.0, (32, 8): 1.0}),
        Tensor("z", (32,), required=32),
    )
    problem = Problem((conv, pool), tensors, call_us=0.25)
    floats, integers = cost(problem, {"conv": "fp32", "pool": "fp32"}), cost(problem, uniform(problem, "w8a8"))
    steps = {step.name: step.change_us for step in waterfall(problem, floats, integers)}
    assert steps == {"conv": -6.0, CONVERSIONS: 1.75, REST: -3.0}
    assert waterfall(problem, floats, floats) == []
