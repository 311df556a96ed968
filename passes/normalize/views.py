"""Reshapes, transposes and slices read as one strided view of the tensor they start from. Nothing is rewritten here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from tvm_mpq.passes.normalize.exprs import axis_list, number, op_name, shape_of, slice_of

_RESHAPES = frozenset({"relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten"})


@dataclass(frozen=True)
class View:
    """view[i] = flat(root)[offset + sum over axes of i * strides]; lengths and strides in elements."""

    root: relax.Var
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def permuted(self, axes: Sequence[int]) -> View:
        shape, strides = (tuple(values[a] for a in axes) for values in (self.shape, self.strides))
        return View(self.root, self.offset, shape, strides)

    def sliced(self, axes: Sequence[tuple[int, int, int]]) -> View:
        """axes: begin, stride and count of each."""
        offset = self.offset + sum(b * s for (b, _, _), s in zip(axes, self.strides, strict=True))
        strides = tuple(t * s for (_, t, _), s in zip(axes, self.strides, strict=True))
        return View(self.root, offset, tuple(c for _, _, c in axes), strides)

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """The same elements in the same order under another shape; None when that is no strided view."""
        old = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        strides: list[int] = []
        pending: list[int] = []  # new axes that the next old axes will cover
        covered = 1
        at = 0
        for size in shape:
            if size == 1:
                pending.append(1)
                continue
            pending.append(size)
            wanted = math.prod(pending)
            length, run = 1, at
            while length < wanted and run < len(old):
                length *= old[run][0]
                run += 1
            if length != wanted:
                continue
            if any(a[1] != b[0] * b[1] for a, b in zip(old[at:run], old[at + 1 : run], strict=False)):
                return None  # axes are joined that do not lie behind each other
            strides += _dense(pending, old[run - 1][1])
            pending, at = [], run
            covered *= wanted
        if covered != math.prod(self.shape):
            return None
        return View(self.root, self.offset, tuple(shape), (*strides, *[1] * len(pending)))


def view_of(expr: relax.Expr, definition: Callable[[relax.Var], Any]) -> View | None:
    """`expr` as a view of the first variable above it that is no reshape, transpose, slice or pick.

    definition: the value of a variable, None where it has none. None when the chain is no strided view.
    """
    if not isinstance(expr, relax.Var) or (shape := shape_of(expr)) is None:
        return None
    value = definition(expr)
    name = op_name(value)
    if name not in _RESHAPES and name not in ("relax.permute_dims", "relax.strided_slice", "relax.take"):
        return View(expr, 0, shape, tuple(_dense(shape, 1)))
    source = view_of(value.args[0], definition)
    if source is None:
        return None
    if name in _RESHAPES:
        return source.reshaped(shape)
    if name == "relax.permute_dims":
        rank = len(shape)
        return source.permuted(axis_list(value.attrs.axes, rank) if value.attrs.axes is not None else range(rank)[::-1])
    if name == "relax.strided_slice":
        taken = slice_of(value)
        return None if taken is None else source.sliced(taken)
    return _picked(source, value, shape)


def _picked(source: View, take: relax.Call, shape: tuple[int, ...]) -> View | None:
    """One constant index along an axis."""
    index, axis = number(take.args[1]), take.attrs.axis
    if index is None or axis is None or math.prod(shape_of(take.args[1]) or ()) != 1:
        return None
    axis, begin = int(axis) % len(source.shape), int(index)
    if not 0 <= begin < source.shape[axis]:  # what such an index means depends on the operator's mode
        return None
    axes = [(begin, 1, 1) if a == axis else (0, 1, n) for a, n in enumerate(source.shape)]
    return source.sliced(axes).reshaped(shape)


def _dense(shape: Sequence[int], last: int) -> list[int]:
    """Strides of axes that lie behind each other, `last` apart."""
    return [last * math.prod(shape[a + 1 :]) for a in range(len(shape))]
