"""Which turns count, and what ratios are made of them."""

from __future__ import annotations

import pytest

from tvm_mpq.peers import rounds


def turns(before: float = 100.0, after: float = 100.0, waited: float = 0.0, ours: float = 1.0):
    return {
        "ours-int8": rounds.Turn(ours, 9, 100.0, 100.0, 0.0),
        "ort-int8": rounds.Turn(2.0, 9, before, after, waited),
        "openvino-int8": rounds.Turn(4.0, 9, 100.0, 100.0, 0.0),
    }


@pytest.mark.parametrize("trouble", [{"before": 111.0}, {"after": 111.0}, {"after": 89.0}, {"waited": 0.06}])
def test_a_disturbed_turn_spoils_itself_only(trouble) -> None:
    good = [turns(ours=float(i)) for i in range(5)]
    disturbed = turns(**trouble)
    left = {name: t for name, t in disturbed.items() if name != "ort-int8"}
    assert rounds.calm_turns([*good, disturbed], 0.10, 0.05) == [*good, left]


def test_disturbances_within_the_limits_count() -> None:
    taken = [turns(), turns(before=109.0, after=91.0, waited=0.05)]
    assert rounds.calm_turns(taken, 0.10, 0.05) == taken
    assert rounds.calm_turns([], 0.10, 0.05) == []


def test_usual_sentinel_time_is_that_of_the_calm_machine_even_when_most_rounds_are_not() -> None:
    slow = {name: rounds.Turn(1.0, 9, 150.0, 160.0, 0.0) for name in ("a", "b")}
    calm = {name: rounds.Turn(1.0, 9, 100.0, 101.0, 0.0) for name in ("a", "b")}
    assert rounds.calm_turns([slow, calm, slow, calm, slow], 0.10, 0.05) == [{}, calm, {}, calm, {}]


def test_everybody_comes_first_equally_often() -> None:
    names = ["a", "b", "c"]
    orders = [rounds.rotated(names, i) for i in range(6)]
    assert [order[0] for order in orders] == ["a", "b", "c"] * 2
    assert all(sorted(order) == names for order in orders)


def test_ratio_is_formed_round_by_round_against_the_best_peer() -> None:
    taken = [
        {"ours-int8": _turn(a), "ort-int8": _turn(b), "openvino-int8": _turn(50.0)}
        for a, b in ((1.0, 2.0), (4.0, 4.0), (30.0, 20.0))
    ]
    ratio = rounds.ratio_to_best(taken, taken, "ours-int8", ["openvino-int8", "ort-int8", "litert-int8"], 1, 0.1)
    assert (ratio.peer, ratio.ratio.median, ratio.ratio.low, ratio.ratio.high) == ("ort-int8", 1.0, 0.75, 1.25)
    assert (ratio.basis, ratio.rounds) == ("calm", 3)


def test_a_ratio_falls_back_to_rounds_that_are_alike_and_then_to_all() -> None:
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


def test_no_ratio_without_ours_peers_or_rounds() -> None:
    one = [turns()]
    assert rounds.ratio_to_best(one, one, "ours-fp32", ["ort-int8"], 1, 0.1) is None
    assert rounds.ratio_to_best(one, one, "ours-int8", ["ort-fp32"], 1, 0.1) is None
    assert rounds.ratio_to_best([], [], "ours-int8", ["ort-int8"], 1, 0.1) is None


def test_an_engines_time_comes_from_its_calm_turns_while_there_are_enough() -> None:
    taken, calm = [turns(ours=float(i)) for i in range(3)], [{}, turns(ours=1.0), {}]
    assert rounds.turn_times(taken, calm, "ours-int8", 1) == [1.0]
    assert rounds.turn_times(taken, calm, "ours-int8", 2) == [0.0, 1.0, 2.0]


def _turn(value: float):
    return rounds.Turn(value, 9, 100.0, 100.0, 0.0)
