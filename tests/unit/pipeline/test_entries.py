"""Searches that are known are not made again, whatever they found; others are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpq_testing.walks import chain
from tvm_mpq.errors import InfeasibleError
from tvm_mpq.pipeline.entries import EntryStore, RememberingSearcher
from tvm_mpq.pipeline.options import Options
from tvm_mpq.select.contest import Found
from tvm_mpq.select.methods.effort import TracePoint
from tvm_mpq.select.problem import Limits
from tvm_mpq.select.searcher import IntegerProgram
from tvm_mpq.tuning.database.latencies import LatencyDatabase

PROBLEM = chain((4.0, 0.2), (1.0, 3.0))
LIMITS = Limits(latency_us=200.0)


def store(db: LatencyDatabase, problem: Any = PROBLEM, data: str = "d", **options: Any) -> EntryStore:
    context: Any = SimpleNamespace(
        options=Options("m.onnx", **options),
        db=db,
        data=SimpleNamespace(fingerprint=data),
        prepared=SimpleNamespace(loaded=SimpleNamespace(fingerprint="m")),
    )
    return EntryStore(context, problem)


def refuse() -> Found:
    raise AssertionError("this was searched before")


def test_what_was_found_comes_back_as_it_was(tmp_path: Path) -> None:
    solution = IntegerProgram().best(PROBLEM, LIMITS, "loss")
    trace = (TracePoint(5, 1.5, float("inf"), 0.5), TracePoint(9, 1.0, 0.25, 0.75))
    found = Found("amed", 0.8, solution, "", None, None, 1.25, trace)
    nothing = Found("haq", 0.8, None, "not within it", None, None, 0.5)
    with LatencyDatabase(tmp_path / "db") as db:
        assert store(db)("amed", LIMITS, lambda: found) is found
        assert store(db)("haq", LIMITS, lambda: nothing) is nothing
    with LatencyDatabase(tmp_path / "db") as db:  # another process
        again = store(db)("amed", LIMITS, refuse)
        assert dataclasses.replace(again, solution=None) == dataclasses.replace(found, solution=None)
        assert again.solution is not None
        assert dataclasses.replace(again.solution, gap=0.0) == dataclasses.replace(solution, gap=0.0)
        assert store(db)("haq", LIMITS, refuse) == nothing


@pytest.mark.parametrize(
    "other",
    [
        {"problem": chain((4.0, 0.2), (1.0, 3.5))},
        {"data": "e"},
        {"seed": 1},
        {"evaluations": 7},
        {"cut": "cheapest"},
        {"free_bits": True},
        {"regulariser": "latency"},
        {"pin_ends": True},
    ],
)
def test_another_search_is_made(tmp_path: Path, other: dict[str, Any]) -> None:
    found = Found("amed", 0.8, None, "none", None, None, 0.5)
    with LatencyDatabase(tmp_path / "db") as db:
        store(db)("amed", LIMITS, lambda: found)
        for known, method, limits in ((store(db, **other), "amed", LIMITS), (store(db), "haq", LIMITS)):
            with pytest.raises(AssertionError):
                known(method, limits, refuse)
        with pytest.raises(AssertionError):
            store(db)("amed", Limits(latency_us=199.0), refuse)


def test_how_long_one_method_learns_is_nothing_to_the_others(tmp_path: Path) -> None:
    found = Found("amed", 0.8, None, "none", None, None, 0.5)
    with LatencyDatabase(tmp_path / "db") as db:
        for method in ("amed", "haq", "freebits"):
            store(db)(method, LIMITS, lambda: found)
        others = store(db, walks=20, updates=20)
        others("amed", LIMITS, refuse)
        for method in ("haq", "freebits"):
            with pytest.raises(AssertionError):
                others(method, LIMITS, refuse)


def test_a_front_goes_on(tmp_path: Path) -> None:
    """Answers and refusals of a searcher, each asked once."""
    asked: list[Limits] = []

    class Counted(IntegerProgram):
        def best(self, problem: Any, limits: Limits, objective: str, then: Any = None) -> Any:
            asked.append(limits)
            return super().best(problem, limits, objective, then)

    with LatencyDatabase(tmp_path / "db") as db:
        for _ in range(2):
            searcher = RememberingSearcher(store(db), "ilp", Counted())
            best = searcher.best(PROBLEM, LIMITS, "loss")
            assert best.choices == IntegerProgram().best(PROBLEM, LIMITS, "loss").choices
            assert searcher.best(PROBLEM, LIMITS, "latency").goal == "latency"
            with pytest.raises(InfeasibleError, match="latency"):
                searcher.best(PROBLEM, Limits(latency_us=1.0), "loss")
    assert len(asked) == 3
