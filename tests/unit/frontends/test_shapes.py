from __future__ import annotations

import pytest

from tvm_mpq.errors import InvalidValueError, UnsupportedModelError
from tvm_mpq.frontends.shapes import Shapes


def test_a_dynamic_batch_is_fixed_and_noted() -> None:
    shapes = Shapes(4, None)
    assert shapes.fix("x", ["N", 3, 8, 8]) == (4, 3, 8, 8)
    assert shapes.notes == ["dynamic batch axis of input 'x' fixed to 4"]


def test_a_static_shape_stays_and_a_batch_that_was_not_used_is_noted() -> None:
    shapes = Shapes(4, None)
    assert shapes.fix("x", [1, 3]) == (1, 3)
    assert shapes.notes == ["batch of input 'x' is 1 in the model; batch 4 was not used"]
    assert Shapes(1, None).fix("x", []) == ()


def test_other_dynamic_axes_are_refused_by_name_and_axis() -> None:
    with pytest.raises(UnsupportedModelError, match=r"input 'x' has a dynamic axis 2 \(height\).*input_shapes"):
        Shapes(1, None).fix("x", ["N", 3, "height", 8])
    with pytest.raises(UnsupportedModelError, match="dynamic axis 0"):
        Shapes(None, None).fix("x", [None, 3])
    with pytest.raises(UnsupportedModelError, match="no known rank"):
        Shapes(1, None).fix("x", None)


def test_given_shapes_win_and_must_agree() -> None:
    shapes = Shapes(1, {"x": (2, 3, 8, 9)})
    assert shapes.fix("x", ["N", 3, "h", "w"]) == (2, 3, 8, 9)
    assert shapes.notes == []
    for shape in ([2, 4, 8, 9], [2, 3, 8]):
        with pytest.raises(InvalidValueError, match="in input_shapes"):
            shapes.fix("x", shape)


def test_a_given_shape_for_no_input_is_an_error() -> None:
    with pytest.raises(InvalidValueError, match="unknown input 'z'; the model's inputs are x, y"):
        Shapes(1, {"z": (1,)}).check_all_used(["x", "y"])


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_below_one_is_refused(batch: int) -> None:
    with pytest.raises(InvalidValueError, match="batch must be 1 or more"):
        Shapes(batch, None)


def test_a_given_size_below_one_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="input_shapes must be 1 or more"):
        Shapes(1, {"x": (0, 3)})
