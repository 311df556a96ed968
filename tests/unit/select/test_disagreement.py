"""Why a plan that loses more by the table may get more images right."""

import itertools

import pytest

from tvm_mpq.select.disagreement import Held, chance, disagreement


def held(table, loss, right, known=None):
    return Held(table, loss, 100 * sum(right) / len(right), tuple(map(bool, right)), known)


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


@pytest.mark.parametrize("whole, why", [(0.5, "here, or not on these images"), (1.5, "loss is not accuracy")])
def test_many_images_have_a_reason(whole, why):
    right = [1] * 10 + [0] * 10
    text = disagreement(held(0.1, 1.0, [0] * 20), {"amed": held(0.2, whole, right), "haq": held(0.2, 9.0, [0] * 20)})
    assert f"by the table ilp loses 0.1, amed 0.2, run whole 1 and {whole:g}" in text and text.endswith(why)


@pytest.mark.parametrize(
    "ours, theirs, why",
    [
        (0.3, 0.2, "is made of ilp loses 0.3, amed 0.2 too, so the losses of operators alone do not add up"),
        (0.1, 0.2, "but on the images that the table is made of ilp loses 0.1, amed 0.2: the table is right about its"),
    ],
)
def test_whether_it_is_the_sum_or_the_images(ours, theirs, why):
    best, other = held(0.1, 1.0, [0] * 20, lambda: ours), held(0.2, 0.5, [1] * 10 + [0] * 10, lambda: theirs)
    assert why in disagreement(best, {"amed": other})


def test_plans_are_run_on_the_tables_images_only_where_that_decides():
    def refuse():
        raise AssertionError("not needed")

    few = held(0.1, 1.0, [1, 0, 0, 0], refuse), held(0.2, 0.5, [1, 1, 0, 0], refuse)
    ranked = held(0.1, 1.0, [0] * 20, refuse), held(0.2, 1.5, [1] * 20, refuse)
    assert "no difference" in disagreement(few[0], {"amed": few[1]})
    assert "loss is not accuracy" in disagreement(ranked[0], {"amed": ranked[1]})
