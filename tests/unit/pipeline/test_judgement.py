"""What is reported of the judgement, and which of two plans is taken, with made-up numbers."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from tvm_mpq.calibrate.judge import Basis
from tvm_mpq.execute.accuracy import Accuracy
from tvm_mpq.execute.build_cache import Checked
from tvm_mpq.pipeline.judgement import held, judgement, warning
from tvm_mpq.pipeline.optimize import decided, rival_of
from tvm_mpq.pipeline.options import Options
from tvm_mpq.schema import Budget
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.paired import Interval, changes
from tvm_mpq.select.quality import Quality, Tried
from tvm_mpq.tuning.measure.networks import WholeNetworkLatency


def tried(us: float, low: float, estimate: float, high: float, name: str = "", label: str = "w8a8") -> Tried:
    solution = Solution(
        {"conv": label}, {}, (), {}, us, 1, 0.1, None, "latency", us, us, 0.0, "optimal", 0.1, "made up"
    )  # fmt: skip
    return Tried(solution, Quality(Interval(estimate, low, high, 100), 0.1), name)


@dataclasses.dataclass
class FakeJudge:
    basis: Basis = dataclasses.field(default_factory=lambda: Basis(400, 0.9, 0.88, False, 0))
    plans: int = 3
    seconds: float = 1.5


def judged(chosen: Tried, others: list[Tried], max_drop: float | None) -> Any:
    options = Options("m.onnx", budget=Budget(max_drop=max_drop) if max_drop else Budget(size_mb=1))
    return judgement(options, FakeJudge(), chosen, [chosen, *others], None)  # type: ignore[arg-type]


def test_what_was_close_is_reported() -> None:
    chosen = tried(100.0, 0.2, 0.3, 0.4)
    others = [
        tried(60.0, 0.1, 0.2, 0.3, "uniform w5a7", "w5a7"),
        tried(90.0, 0.3, 0.4, 0.65, "uniform w6a7", "w6a7"),
        tried(80.0, 0.3, 0.4, 0.6, "uniform w6a8", "w6a8"),
        tried(70.0, 0.7, 0.8, 0.9, "uniform w4a8", "w4a8"),
        tried(101.0, 0.1, 0.1, 0.2, "uniform w7a8", "w7a8"),
        tried(130.0, 0.3, 0.4, 0.6, "uniform w5a8", "w5a8"),
    ]
    found = judged(chosen, others, 0.5)
    assert found["undecided"]["name"] == "uniform w6a8" and found["undecided"]["images_needed"] == 400
    assert found["nearest"]["name"] == "uniform w6a8"
    assert found["near_ties"] == ["uniform w5a7", "uniform w7a8"]
    assert found["chosen"] == {"estimate": 0.3, "low": 0.2, "high": 0.4, "images": 100}
    assert (found["images"], found["plans"], found["seconds"]) == (400, 3, 1.5)


def test_without_a_limit_of_the_drop_nothing_is_close() -> None:
    found = judged(tried(100.0, 0.2, 0.3, 0.4), [tried(99.0, 0.0, 0.1, 9.0, "uniform w8a8", "w6a8")], None)
    assert (found["undecided"], found["nearest"], found["near_ties"]) == (None, None, [])


@pytest.mark.parametrize(
    ("right", "mixed", "words"),
    [(0.998, 300, "fp32 is right on 99.8%.*300 mixed pairs"), (None, 0, "fp32 is 99.0% sure.*drops look too small")],
)
def test_a_warning_when_images_look_trained_on(right: float | None, mixed: int, words: str) -> None:
    assert warning(FakeJudge()) is None  # type: ignore[arg-type]
    text = warning(FakeJudge(Basis(400, right, 0.99, True, mixed)))  # type: ignore[arg-type]
    assert text is not None and re.search(words, text) and "\n" not in text


def checked(us: float, iqr: float, **counts: Any) -> Checked:
    return Checked(us, iqr, Accuracy("top1", 90.0, 90, 100, **counts), 1, 1)


def timed(*rounds_us: float) -> WholeNetworkLatency:
    rounds = dict(enumerate(rounds_us))
    return WholeNetworkLatency(float(np.median(rounds_us)), 9.0, 1, 1.0, 1.0, 1, rounds)


@pytest.mark.parametrize(("share", "taken"), [(0.97, True), (0.999, True), (1.0, True), (1.001, False), (1.03, False)])
def test_no_plan_is_returned_that_is_slower_than_the_rival(share: float, taken: bool) -> None:
    """Round by round: the machine was twice as slow in some of them, which is more than the plans differ by."""
    rounds = (100.0, 210.0, 104.0, 95.0, 190.0, 101.0, 99.0)
    found = decided("u", timed(*rounds), timed(*(share * us for us in rounds)))
    assert (found["name"], found["chosen"]) == ("u", taken) and found["share"] == pytest.approx(share)


def test_rounds_are_compared_and_not_medians() -> None:
    """The rival was disturbed twice; in the five other rounds it was faster."""
    searched, rival = (
        (100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0),
        (300.0, 300.0, 101.0, 102.0, 103.5, 104.0, 105.0),
    )
    found = decided("u", timed(*searched), timed(*rival))
    assert found["latency_ms"] > found["searched_ms"] and found["share"] < 1 and found["chosen"]


def test_few_rounds_are_compared_by_their_medians() -> None:
    found = decided("u", timed(100.0), timed(90.0))
    assert (found["latency_ms"], found["searched_ms"], found["share"], found["chosen"]) == (0.09, 0.1, 0.9, True)


def test_the_rival_is_the_fastest_uniform_plan_that_keeps_the_drop() -> None:
    chosen = tried(80.0, 0.2, 0.3, 0.4, label="w6a8")
    uniform = [
        tried(70.0, 0.7, 0.8, 0.9, "uniform w4a8"),
        tried(100.0, 0.1, 0.1, 0.2, "uniform w8a8"),
        tried(90.0, 0.1, 0.1, 0.2, "uniform w7a8"),
    ]
    assert rival_of(chosen, [*uniform, chosen], Budget(max_drop=0.5)) == uniform[2]
    assert rival_of(uniform[2], [*uniform, chosen], Budget(max_drop=0.5)) is None, "it is the chosen plan itself"
    assert rival_of(chosen, uniform, Budget(size_mb=1)) is None, "nothing was judged against a drop"


def test_what_evaluation_images_show() -> None:
    found = held({"int8": checked(1, 0), "mixed": checked(1, 0, better=2, worse=5)})
    wanted = changes(2, 5, 100)
    assert found["mixed"] == {**dataclasses.asdict(wanted), "better": 2, "worse": 5}
    error = Checked(1.0, 0.0, Accuracy("relative_error", 1.0, 0, 100), 1, 1)
    assert held({"int8": error, "mixed": error}) == {}
