from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CORE = sorted(os.sched_getaffinity(0))[:1] if hasattr(os, "sched_getaffinity") else []


@pytest.fixture(scope="module")
def rounds():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("rounds")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def engines():
    """Modules `engines.worker`, `engines.child` and `engines.common`."""
    sys.path.insert(0, str(BENCHMARKS))
    yield [importlib.import_module(f"engines.{name}") for name in ("worker", "child", "common")]
    sys.path.remove(str(BENCHMARKS))


def turns(rounds, before: float = 100.0, after: float = 100.0, waited: float = 0.0, ours: float = 1.0):
    return {
        "ours-int8": rounds.Turn(ours, 9, 100.0, 100.0, 0.0),
        "ort-int8": rounds.Turn(2.0, 9, before, after, waited),
        "openvino-int8": rounds.Turn(4.0, 9, 100.0, 100.0, 0.0),
    }


@pytest.mark.parametrize("trouble", [{"before": 111.0}, {"after": 111.0}, {"after": 89.0}, {"waited": 0.06}])
def test_a_disturbed_turn_spoils_itself_only(rounds, trouble) -> None:
    good = [turns(rounds, ours=float(i)) for i in range(5)]
    disturbed = turns(rounds, **trouble)
    left = {name: t for name, t in disturbed.items() if name != "ort-int8"}
    assert rounds.calm_turns([*good, disturbed], 0.10, 0.05) == [*good, left]


def test_disturbances_within_the_limits_count(rounds) -> None:
    taken = [turns(rounds), turns(rounds, before=109.0, after=91.0, waited=0.05)]
    assert rounds.calm_turns(taken, 0.10, 0.05) == taken
    assert rounds.calm_turns([], 0.10, 0.05) == []


def test_usual_sentinel_time_is_that_of_the_calm_machine_even_when_most_rounds_are_not(rounds) -> None:
    slow = {name: rounds.Turn(1.0, 9, 150.0, 160.0, 0.0) for name in ("a", "b")}
    calm = {name: rounds.Turn(1.0, 9, 100.0, 101.0, 0.0) for name in ("a", "b")}
    assert rounds.calm_turns([slow, calm, slow, calm, slow], 0.10, 0.05) == [{}, calm, {}, calm, {}]


def test_everybody_comes_first_equally_often(rounds) -> None:
    names = ["a", "b", "c"]
    orders = [rounds.rotated(names, i) for i in range(6)]
    assert [order[0] for order in orders] == ["a", "b", "c"] * 2
    assert all(sorted(order) == names for order in orders)


def test_ratio_is_formed_round_by_round_against_the_best_peer(rounds) -> None:
    taken = [
        {"ours-int8": _turn(rounds, a), "ort-int8": _turn(rounds, b), "openvino-int8": _turn(rounds, 50.0)}
        for a, b in ((1.0, 2.0), (4.0, 4.0), (30.0, 20.0))
    ]
    ratio = rounds.ratio_to_best(taken, taken, "ours-int8", ["openvino-int8", "ort-int8", "litert-int8"], 1, 0.1)
    assert (ratio.peer, ratio.ratio.median, ratio.ratio.low, ratio.ratio.high) == ("ort-int8", 1.0, 0.75, 1.25)
    assert (ratio.basis, ratio.rounds) == ("calm", 3)


def test_a_ratio_falls_back_to_rounds_that_are_alike_and_then_to_all(rounds) -> None:
    def both(state: float, ours: float, other: float | None = None):
        mine = rounds.Turn(ours, 9, state, state, 0.0)
        return {"ours-int8": mine, "ort-int8": rounds.Turn(2.0, 9, other or state, other or state, 0.0)}

    slow, mixed, calm = both(190.0, 3.0), both(100.0, 1.0, other=190.0), both(100.0, 2.0)
    taken = [slow, slow, slow, mixed, mixed, calm]
    found = [
        rounds.ratio_to_best(taken, rounds.calm_turns(taken, 0.1, 0.05), "ours-int8", ["ort-int8"], enough, 0.1)
        for enough in (1, 2, 6)
    ]
    assert [(r.basis, r.rounds, r.ratio.median) for r in found] == [
        ("calm", 1, 1.0),
        ("alike", 4, 1.5),
        ("all", 6, 1.25),
    ]


def test_no_ratio_without_ours_peers_or_rounds(rounds) -> None:
    one = [turns(rounds)]
    assert rounds.ratio_to_best(one, one, "ours-fp32", ["ort-int8"], 1, 0.1) is None
    assert rounds.ratio_to_best(one, one, "ours-int8", ["ort-fp32"], 1, 0.1) is None
    assert rounds.ratio_to_best([], [], "ours-int8", ["ort-int8"], 1, 0.1) is None


def test_an_engines_time_comes_from_its_calm_turns_while_there_are_enough(rounds) -> None:
    taken, calm = [turns(rounds, ours=float(i)) for i in range(3)], [{}, turns(rounds, ours=1.0), {}]
    assert rounds.turn_times(taken, calm, "ours-int8", 1) == [1.0]
    assert rounds.turn_times(taken, calm, "ours-int8", 2) == [0.0, 1.0, 2.0]


def _turn(rounds, value: float):
    return rounds.Turn(value, 9, 100.0, 100.0, 0.0)


class Sleeper:
    def run(self) -> None:
        time.sleep(0.002)


def test_turn_fills_its_time_and_gives_the_median_call(engines, rounds) -> None:
    got = rounds.Turn(**engines[0].turn(Sleeper(), 0.03))
    assert 2000 <= got.median_us < 20_000
    assert got.calls >= 5
    assert got.calls * got.median_us >= 15_000
    assert got.before_us > 0 and got.after_us > 0 and got.waited >= 0


def test_an_engine_that_cannot_is_told_from_one_that_fails(engines, tmp_path) -> None:
    _, child, common = engines
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    job = {"kind": "litert", "precision": "int8", "folder": str(tmp_path), "threads": 1}
    job["calibration"] = str(tmp_path / "x.npy")
    with open(tmp_path / "log", "wb") as log, child.Child(sys.executable, CORE, 1, log, tmp_path) as process:
        with pytest.raises(common.NotOffered, match="needs a TFLite file"):
            process.ask(60.0, do="build", job=job)
        with pytest.raises(child.EngineError, match="KeyError: 'abacus'"):
            process.ask(60.0, do="build", job={**job, "kind": "abacus"})
        with pytest.raises(common.NotOffered):  # still there
            process.ask(60.0, do="build", job=job)


def test_a_dead_engine_is_an_error(engines, tmp_path) -> None:
    _, child, _ = engines
    with (
        open(tmp_path / "log", "wb") as log,
        child.Child("/bin/false", CORE, 1, log, tmp_path) as process,
        pytest.raises(child.EngineError, match="ended with code 1"),
    ):
        process.ask(60.0, do="turn", seconds=0.01)
