"""The tuner's ranking, on a law that is known: tiles whose columns divide the map are faster."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tvm_mpq.schema import Conv2dWorkload, LatencyKey
from tvm_mpq.targets import resolve
from tvm_mpq.tuning.predictor.entry import MachineFacts
from tvm_mpq.tuning.predictor.ranking import LEAST_PAIRS, UNKNOWN_GAIN, Candidate, Ranking, slot_of

MACHINE = MachineFacts.of(resolve("znver4"))
COLUMNS = (4, 5, 6, 7, 8, 12, 14)
WIDTHS = (6, 7, 8, 10, 12, 13, 15, 16, 18, 20, 21, 24, 26, 28, 30)


def key(width: int, columns: int, channels: int = 64) -> LatencyKey:
    w = Conv2dWorkload(1, width, width, channels, channels, (3, 3), (1, 1), (1, 1, 1, 1))
    knobs = {"columns": columns, "rows": 1, "blocks": 2, "order": "channels"}
    return LatencyKey(w.key, "w8a8", 8, "qu8_qs8_s32_conv2d__avx512vnni", json.dumps(knobs), "t")


def law_us(k: LatencyKey, width: int, columns: int) -> float:
    wasted = -(-width // columns) * columns / width
    return 100.0 * width * wasted


def knowledge(widths: tuple[int, ...]) -> tuple[list[tuple[LatencyKey, float]], dict]:
    measured = [(key(w, c), law_us(key(w, c), w, c)) for w in widths for c in COLUMNS]
    defaults = {slot_of(key(w, COLUMNS[0])): law_us(key(w, COLUMNS[0]), w, COLUMNS[0]) for w in widths}
    return measured, defaults


def test_until_enough_is_known_the_knob_space_and_the_weight_decide() -> None:
    measured, defaults = knowledge((14,))
    ranking = Ranking(measured, defaults, MACHINE)
    assert len(measured) < LEAST_PAIRS and not ranking.learned
    trials = [Candidate(key(14, c), index, uses) for c, index, uses in ((5, 1, 1), (6, 2, 1), (7, 1, 3))]
    best = {slot_of(key(14, 4)): 1000.0}
    np.testing.assert_allclose(
        ranking.gains(trials, best), [UNKNOWN_GAIN * 1000, UNKNOWN_GAIN * 500, UNKNOWN_GAIN * 3000]
    )


def test_what_some_layers_teach_is_used_for_another() -> None:
    measured, defaults = knowledge(WIDTHS)
    new = 14
    slot = slot_of(key(new, COLUMNS[0]))
    default_us = law_us(key(new, 4), new, 4)
    ranking = Ranking(measured, {**defaults, slot: default_us}, MACHINE)
    assert ranking.learned
    trials = [Candidate(key(new, c), index, 1) for index, c in enumerate(COLUMNS) if index]
    gains = ranking.gains(trials, {slot: default_us})
    best = COLUMNS[1 + int(np.argmax(gains))]
    assert new % best == 0  # 7 or 14: the only ones that waste nothing
    assert gains[COLUMNS.index(12) - 1] == min(gains)  # 12 computes 24 columns for 14


def test_nothing_is_gained_below_what_is_known_already() -> None:
    measured, defaults = knowledge(WIDTHS)
    ranking = Ranking(measured, defaults, MACHINE)
    trials = [Candidate(key(28, c), 1, 1) for c in COLUMNS]
    slot = slot_of(key(28, 4))
    assert ranking.gains(trials, {slot: 1.0}) == pytest.approx(np.zeros(len(COLUMNS)))
    twice = [Candidate(t.key, 1, 2) for t in trials]
    once = ranking.gains(trials, {slot: 1e6})
    np.testing.assert_allclose(ranking.gains(twice, {slot: 1e6}), 2 * once)


def test_the_same_knowledge_in_another_order_ranks_the_same() -> None:
    measured, defaults = knowledge(WIDTHS)
    trials = [Candidate(key(w, c), 1, 1) for w in (11, 22) for c in COLUMNS]
    known = {slot_of(key(w, 4)): law_us(key(w, 4), w, 4) for w in (11, 22)}
    rankings = [Ranking(order, {**defaults, **known}, MACHINE) for order in (measured, measured[::-1])]
    first, second = (r.gains(trials, known) for r in rankings)
    np.testing.assert_array_equal(first, second)


def test_no_trials_no_gains() -> None:
    assert Ranking([], {}, MACHINE).gains([], {}).shape == (0,)
