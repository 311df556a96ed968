"""HiGHS through PuLP, told to be exact, quiet and deterministic, and read honestly.

PuLP calls a run that hit its time limit "Optimal" when it holds any solution; only the solver's own model status tells.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import highspy
import pulp

from tvm_mpq.errors import MPQError

logger = logging.getLogger(__name__)

OPTIMAL = "optimal"
TIME_LIMIT = "time_limit"
INFEASIBLE = "infeasible"

_STATUS = {
    highspy.HighsModelStatus.kOptimal: OPTIMAL,
    highspy.HighsModelStatus.kModelEmpty: OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: INFEASIBLE,
    # every variable is binary, so nothing is unbounded
    highspy.HighsModelStatus.kUnboundedOrInfeasible: INFEASIBLE,
    highspy.HighsModelStatus.kTimeLimit: TIME_LIMIT,
}

_FEASIBLE = int(highspy.kSolutionStatusFeasible)

# One thread and a fixed seed: the same tables give the same plan. Gaps of zero: the optimum, not 1e-4 beside it.
_OPTIONS = {
    "output_flag": False,
    "threads": 1,
    "random_seed": 1,
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.0,
    "mip_feasibility_tolerance": 1e-9,
    "primal_feasibility_tolerance": 1e-9,
}


class _Silent(highspy.Highs):
    """HiGHS that does not greet: since 1.16 making an object prints two lines, before any option can be set."""

    def enableCallbacks(self) -> Any:
        self.setOptionValue("output_flag", False)
        return super().enableCallbacks()  # type: ignore[no-untyped-call]


class _Solver(pulp.HiGHS):
    def createAndConfigureSolver(self, lp: pulp.LpProblem) -> None:
        lp.solverModel = _Silent()  # type: ignore[no-untyped-call]
        for name, value in self.optionsDict.items():
            lp.solverModel.setOptionValue(name, value)


@dataclass(frozen=True)
class Run:
    """What the solver says. bound: of the objective as it was given to the solver; -inf when nothing is proven."""

    status: str
    has_values: bool
    bound: float
    seconds: float


def _version() -> str:
    numbers = (highspy.HIGHS_VERSION_MAJOR, highspy.HIGHS_VERSION_MINOR, highspy.HIGHS_VERSION_PATCH)
    return ".".join(map(str, numbers))


def solver_name() -> str:
    """Solver and versions, e.g. `HiGHS 1.15.1 (PuLP 3.3.2)`."""
    return f"HiGHS {_version()} (PuLP {pulp.__version__})"


def run(lp: pulp.LpProblem, time_limit_sec: float) -> Run:
    """Solve; the values are left in the model's variables.

    Raises
    ------
    MPQError
        If the solver itself fails.
    """
    seconds = 0.0
    for options in (_OPTIONS, {**_OPTIONS, "presolve": "off"}):
        lp.solve(_Solver(time_limit=max(time_limit_sec - seconds, 1e-3), **options))
        highs = lp.solverModel
        model_status = highs.getModelStatus()
        seconds += float(highs.getRunTime())
        # Presolved values may miss the tight tolerances once they are carried back; the model as it stands does not.
        if model_status != highspy.HighsModelStatus.kSolveError:
            break
    if model_status == highspy.HighsModelStatus.kModelEmpty:
        return Run(OPTIMAL, True, 0.0, seconds)
    status = _STATUS.get(model_status)
    if status is None:
        raise MPQError(f"the solver stopped with status {highs.modelStatusToString(model_status)!r}")
    info = highs.getInfo()
    logger.debug("solver: %s, %d variables, %.3g s", status, len(lp.variables()), seconds)
    has_values = status != INFEASIBLE and int(info.primal_solution_status) == _FEASIBLE
    return Run(status, has_values, float(info.mip_dual_bound) if has_values else -math.inf, seconds)
