from __future__ import annotations

import shlex
from typing import Any

import pytest

from tvm_mpq.errors import InvalidValueError, UnsupportedModelError
from tvm_mpq.frontends.shapes import Shapes


def test_a_dynamic_batch_is_fixed_and_noted() -> None:
    shapes = Shapes(4, None)
    assert shapes.fix({"x": ["N", 3, 8, 8]}) == {"x": (4, 3, 8, 8)}
    assert shapes.notes == ["dynamic batch axis of input 'x' fixed to 4"]


def test_a_static_shape_stays_and_a_batch_that_was_not_used_is_noted() -> None:
    shapes = Shapes(4, None)
    assert shapes.fix({"x": [1, 3]}) == {"x": (1, 3)}
    assert shapes.notes == ["batch of input 'x' is 1 in the model; batch 4 was not used"]
    assert Shapes(1, None).fix({"x": []}) == {"x": ()}


@pytest.mark.parametrize(
    ("inputs", "free", "option"),
    [
        ({"x": ["N", 3, "height", 8]}, "axis 2 (height)", "--input-shape x=1x3x224x8"),
        ({"x": [None, 3, None, None]}, "axes 2 and 3", "--input-shape x=1x3x224x224"),
        ({"x": ["N", "h", "w", 3]}, "axes 1 (h) and 2 (w)", "--input-shape x=1x224x224x3"),
        ({"x": ["N", "c", "h", "w"]}, "axes 1 (c) and 2 (h) and 3 (w)", "--input-shape x=1x3x224x224"),
        ({"a b": ["N", "s"]}, "'a b' has dynamic axis 1 (s)", "--input-shape 'a b=1x128'"),
        ({"x": None}, "no known rank", "--input-shape x=1x3x224x224"),
    ],
)
def test_other_dynamic_axes_are_refused_with_the_option_that_fixes_them(inputs: Any, free: str, option: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        Shapes(1, None).fix(inputs)
    assert free in str(caught.value) and option in str(caught.value)
    words = shlex.split(option)[1:]
    given = {w.rpartition("=")[0]: [int(n) for n in w.rpartition("=")[2].split("x")] for w in words}
    assert Shapes(1, given).fix(inputs) == {name: tuple(shape) for name, shape in given.items()}


def test_an_axis_without_elements_is_told_as_one() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        Shapes(1, None).fix({"x": [0, 3], "y": [2]})
    said = str(caught.value)
    assert "'x' is 0x3 in the model" in said and "no elements" in said and "--input-shape x=1x3 " in said
    assert "dynamic" not in said
    assert Shapes(1, {"x": (4, 3)}).fix({"x": [0, 3]}) == {"x": (4, 3)}  # some exporters write 0 for a free axis


def test_a_dynamic_batch_that_nothing_fixes_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"dynamic axis 0.*--input-shape x=1x3"):
        Shapes(None, None).fix({"x": [None, 3]})


def test_a_symbol_has_one_size_in_all_inputs() -> None:
    tokens: dict[str, list[int | str | None]] = {"ids": ["b", "s"], "mask": ["b", "s"], "table": ["s", 4]}
    with pytest.raises(UnsupportedModelError) as caught:
        Shapes(1, None).fix({**tokens, "table": [2, 4]})
    assert str(caught.value).count("--input-shape") == 1 and "--input-shape ids=1x128 " in str(caught.value)
    shapes = Shapes(1, {"mask": (2, 7)})
    assert shapes.fix(tokens) == {"ids": (2, 7), "mask": (2, 7), "table": (7, 4)}
    with pytest.raises(InvalidValueError, match=r"axis 1 \(s\) of input 'mask' has size 8.* 7 in another"):
        Shapes(1, {"ids": (2, 7), "mask": (2, 8)}).fix(tokens)


def test_names_that_say_nothing_are_no_symbols() -> None:
    assert Shapes(1, {"x": (1, 3, 48, 192)}).fix({"x": ["-1", 3, "?", "?"]}) == {"x": (1, 3, 48, 192)}
    assert Shapes(1, {"x": (1, 3, 48, 192)}).fix({"x": ["b", 3, "any", "any"]}) == {"x": (1, 3, 48, 192)}
    with pytest.raises(UnsupportedModelError, match="axes 2 and 3"):
        Shapes(1, None).fix({"x": ["?", 3, "?", "?"]})


def test_given_shapes_win_and_must_agree() -> None:
    shapes = Shapes(1, {"x": (2, 3, 8, 9)})
    assert shapes.fix({"x": ["N", 3, "h", "w"]}) == {"x": (2, 3, 8, 9)}
    assert shapes.notes == ["sizes of input 'x' fixed to 2x3x8x9"]
    for shape in ([2, 4, 8, 9], [2, 3, 8], []):
        with pytest.raises(InvalidValueError, match=r"in the model \(got 2x3x8x9 in input_shapes\)"):
            shapes.fix({"x": shape})
    with pytest.raises(InvalidValueError, match=r"batch is 4 .* 2x3; give one batch"):
        Shapes(4, {"x": (2, 3)}).fix({"x": ["N", 3]})


def test_a_given_shape_for_no_input_is_an_error() -> None:
    with pytest.raises(InvalidValueError, match="unknown input 'z'; the model's inputs are x, y"):
        Shapes(1, {"z": (1,)}).fix({"x": [1], "y": [1]})


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_below_one_is_refused(batch: int) -> None:
    with pytest.raises(InvalidValueError, match="batch must be 1 or more"):
        Shapes(batch, None)


def test_a_given_size_below_one_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="in input_shapes must be 1 or more"):
        Shapes(1, {"x": (0, 3)})
