"""Why a plan that loses more by the table may get more images right."""

import itertools

import pytest

from tvm_mpq.select.disagreement import Held, chance, disagreement


def held(table, loss, right):
    return Held(table, loss, 100 * sum(right) / len(right), tuple(map(bool, right)))


def test_chance_is_that_of_fair_coins():
    for more, fewer in [(0, 0), (3, 1), (1, 3), (6, 0), (4, 4)]:
        falls = list(itertools.product((0, 1), repeat=more + fewer))
        uneven = abs(more - fewer)
        share = sum(abs(2 * sum(f) - len(f)) >= uneven for f in falls) / len(falls)
        assert chance(more, fewer) == pytest.approx(share)


def test_nothing_is_said_where_the_table_is_right():
    best = held(1.0, 1.0, [1, 1, 0, 0])
    assert disagreement(best, {}) == ""
    assert disagreement(best, {"greedy": held(2.0, 2.0, [1, 0, 1, 0]), "amed": held(3.0, 2.0, [1, 0, 0, 0])}) == ""
    assert disagreement(Held(1.0, 1.0, 5.0), {"greedy": Held(1.0, 1.0, 9.0)}) == ""  # nothing is right or wrong


def test_few_images_are_chance():
    text = disagreement(held(1.0, 1.0, [1, 1, 0, 0]), {"haq": held(2.0, 2.0, [0, 1, 1, 1])})
    assert "haq has 75.00 % right, ilp 50.00 %: of 4 images 2 are right under haq alone, 1 under ilp alone" in text
    assert text.endswith("differ that much with probability 1.00, so this is no difference")


@pytest.mark.parametrize("whole, why", [(0.5, "do not add up here"), (1.5, "loss is not accuracy")])
def test_many_images_have_a_reason(whole, why):
    right = [1] * 10 + [0] * 10
    text = disagreement(held(0.1, 1.0, [0] * 20), {"amed": held(0.2, whole, right), "haq": held(0.2, 9.0, [0] * 20)})
    assert f"by the table ilp loses 0.1, amed 0.2, run whole 1 and {whole:g}" in text and text.endswith(why)
