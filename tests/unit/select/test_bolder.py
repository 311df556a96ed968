"""Which plans are taught, and when one of them is taken."""

from __future__ import annotations

import pytest

from tvm_mpq.select.bolder import ALLOWANCES, GAIN, fastest_learned
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.paired import exact
from tvm_mpq.select.quality import Quality, Tried


def tried(us: float, drop: float) -> Tried:
    solution = Solution({"conv": f"{us}"}, {}, (), {}, us, 1, 0.1, None, "latency", us, us, 0.0, "optimal", 0.1, "none")
    return Tried(solution, Quality(exact(drop), 0.1))


CHOSEN = tried(100.0, 0.4)


def taught(bold: dict[float, Tried | None], after: dict[float, float]) -> tuple[Tried, list[float]]:
    """The plan taken, with a drop of 0.5 allowed, and what was trained; after: latency -> drop after learning."""
    trained: list[float] = []

    def learned(solution: Solution) -> Quality:
        trained.append(solution.latency_us)
        return Quality(exact(after[solution.latency_us]), 0.1)

    return fastest_learned(CHOSEN, 0.5, lambda drop: bold[drop], learned), trained


BOLD = {ALLOWANCES[0] * 0.5: tried(60.0, 2.9), ALLOWANCES[1] * 0.5: tried(80.0, 1.2)}


@pytest.mark.parametrize(
    ("after", "us", "trained"),
    [
        ({60.0: 0.5}, 60.0, [60.0]),
        ({60.0: 0.6, 80.0: 0.3}, 80.0, [60.0, 80.0]),
        ({60.0: 2.0, 80.0: 0.51}, 100.0, [60.0, 80.0]),
    ],
)
def test_the_boldest_that_keeps_the_drop_once_taught(
    after: dict[float, float], us: float, trained: list[float]
) -> None:
    found, learned = taught({**BOLD}, after)
    assert (found.solution.latency_us, learned) == (us, trained)
    assert found.quality.drop.estimate == after.get(us, 0.4)


def test_no_training_for_a_plan_that_gains_next_to_nothing() -> None:
    close = tried(100.0 * (1 - GAIN / 2), 2.0)
    found, learned = taught(dict.fromkeys(BOLD, close), {})
    assert found is CHOSEN and learned == []


def test_no_plan_within_an_allowance() -> None:
    found, learned = taught(dict.fromkeys(BOLD), {})
    assert found is CHOSEN and learned == []
