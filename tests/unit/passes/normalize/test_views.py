"""Views: what a chain of reshapes, transposes and slices shows, read straight from the tensor it starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvm_mpq.passes.normalize.views import View, view_of


def chain(build: Any, *shape: int) -> tuple[relax.Var, relax.Expr, dict[relax.Var, relax.Expr]]:
    """The root, the last expression and all definitions of `build(emit, root)`."""
    builder = relax.BlockBuilder()
    root = relax.Var("x", relax.TensorType(shape, "float32"))
    values: dict[relax.Var, relax.Expr] = {}

    def emit(expr: relax.Expr) -> relax.Var:
        expr = builder.normalize(expr)
        var = relax.Var(f"v{len(values)}", expr.ty)
        values[var] = expr
        return var

    return root, build(emit, root), values


def shown(view: View, array: np.ndarray) -> np.ndarray:
    strides = tuple(array.itemsize * s for s in view.strides)
    return np.lib.stride_tricks.as_strided(array.reshape(-1)[view.offset :], view.shape, strides)


def test_heads_of_a_joined_projection() -> None:
    def build(emit: Any, x: relax.Var) -> relax.Expr:
        split = emit(relax.op.permute_dims(emit(relax.op.reshape(x, (2, 5, 3, 4, 8))), (2, 0, 3, 1, 4)))
        part = emit(relax.op.strided_slice(split, [0], [1], [2], [1]))
        return emit(relax.op.permute_dims(emit(relax.op.squeeze(part, [0])), (0, 1, 3, 2)))

    root, end, values = chain(build, 2, 5, 96)
    view = view_of(end, values.get)
    assert view == View(root, 32, (2, 4, 8, 5), (480, 8, 1, 96))


def test_a_pick_by_a_constant() -> None:
    def build(emit: Any, x: relax.Var) -> relax.Expr:
        return emit(relax.op.take(x, relax.const(np.int64(2)), axis=1))

    root, end, values = chain(build, 2, 3, 4)
    assert view_of(end, values.get) == View(root, 8, (2, 4), (12, 1))


def test_joining_axes_that_do_not_lie_behind_each_other_is_no_view() -> None:
    def build(emit: Any, x: relax.Var) -> relax.Expr:
        return emit(relax.op.reshape(emit(relax.op.permute_dims(x, (1, 0))), (12,)))

    _, end, values = chain(build, 3, 4)
    assert view_of(end, values.get) is None


def test_arithmetic_ends_the_view() -> None:
    def build(emit: Any, x: relax.Var) -> relax.Expr:
        return emit(relax.op.reshape(emit(relax.op.exp(x)), (4, 3)))

    root, end, values = chain(build, 3, 4)
    view = view_of(end, values.get)
    assert view is not None and not view.root.same_as(root) and view.strides == (3, 1)


SHAPES = st.sampled_from([(2, 3, 4), (6, 1, 4), (1, 24), (2, 2, 2, 3), (12, 2), (4, 6), (24,), (1, 2, 12, 1)])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_equals_numpy(data: st.DataObject) -> None:
    """Any chain: the view shows what NumPy computes, or there is no view."""
    array = np.arange(24, dtype=np.float32).reshape(data.draw(SHAPES))
    view: View | None = View(relax.Var("x", relax.TensorType((24,), "float32")), 0, array.shape, ())
    view = View(view.root, 0, array.shape, tuple(s // 4 for s in array.strides))
    got = array
    for kind in data.draw(st.lists(st.sampled_from(["reshape", "permute", "slice"]), max_size=4)):
        if kind == "permute":
            axes = data.draw(st.permutations(range(got.ndim)))
            got, view = got.transpose(axes), view.permuted(axes)
        elif kind == "slice":
            axes = [(0, data.draw(st.integers(1, 2)), n) for n in got.shape]
            axes = [(b, t, -(-n // t)) for b, t, n in axes]
            got = got[tuple(slice(b, None, t) for b, t, _ in axes)]
            view = view.sliced(axes)
        else:
            options = {(got.size,), (1, got.size), (got.size, 1), *((k, got.size // k) for k in (2, 3, 4, 6))}
            shape = data.draw(st.sampled_from(sorted(s for s in options if int(np.prod(s)) == got.size)))
            after = view.reshaped(shape)
            if after is None:
                assert not np.shares_memory(got.reshape(shape), array)  # NumPy had to copy as well
                return
            got, view = got.reshape(shape), after
    np.testing.assert_array_equal(shown(view, array), got)


def test_a_constant_has_no_view() -> None:
    assert view_of(relax.const(np.zeros((2, 2), np.float32)), lambda _: None) is None
