import random
import subprocess
import sys

import pulp
import pytest

import tvm_mpq.select.solver as solver
from tvm_mpq.errors import MPQError


def _knapsack(count=120, capacity=0.5):
    """Hard enough that a thousandth of a second does not solve it."""
    rng = random.Random(1)
    lp = pulp.LpProblem("knapsack", pulp.LpMinimize)
    cost = [[rng.random() for _ in range(12)] for _ in range(count)]
    weight = [[1 - c + rng.random() for c in costs] for costs in cost]
    x = [[lp.add_variable(f"x_{i}_{j}", cat=pulp.LpBinary) for j in range(12)] for i in range(count)]
    lp += pulp.lpSum(cost[i][j] * x[i][j] for i in range(count) for j in range(12))
    for row in x:
        lp += pulp.lpSum(row) == 1
    lp += pulp.lpSum(weight[i][j] * x[i][j] for i in range(count) for j in range(12)) <= capacity * count
    return lp


def test_optimal_with_bound_and_seconds():
    lp = _knapsack(10, 0.8)
    outcome = solver.run(lp, 20.0)
    assert (outcome.status, outcome.has_values) == ("optimal", True)
    assert outcome.bound == pytest.approx(pulp.value(lp.objective), rel=1e-9)
    assert outcome.seconds > 0


def test_time_out_is_told_whatever_pulp_calls_it():
    outcome = solver.run(_knapsack(), 1e-6)
    assert outcome.status == "time_limit"
    assert not outcome.has_values


def test_infeasible():
    outcome = solver.run(_knapsack(10, 0.0), 20.0)
    assert (outcome.status, outcome.has_values) == ("infeasible", False)


def test_nothing_to_decide():
    lp = pulp.LpProblem("empty", pulp.LpMinimize)
    lp.setObjective(pulp.LpAffineExpression())
    assert solver.run(lp, 1.0).status == "optimal"


def test_a_failing_solver_is_an_error_not_an_answer(monkeypatch):
    monkeypatch.setattr(solver, "_STATUS", {})
    with pytest.raises(MPQError, match="the solver stopped with status 'Optimal'"):
        solver.run(_knapsack(3, 0.9), 1.0)


def test_silence_from_the_first_problem_on():
    """HiGHS greets once a process, so the process has to be a new one."""
    code = """
import pulp, tvm_mpq.select.solver as solver
lp = pulp.LpProblem("one", pulp.LpMinimize)
x = lp.add_variable("x", cat=pulp.LpBinary)
lp += x
lp += x >= 0.5
assert solver.run(lp, 20.0).bound == 1.0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
