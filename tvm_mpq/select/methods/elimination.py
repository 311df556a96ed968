"""The least sum of tables that share variables, by eliminating one variable after the other.

Nonserial dynamic programming (Bertelè and Brioschi, 1972): whoever is eliminated next is the variable that makes the
smallest new table. Exact; what it costs grows with the largest table, not with the number of variables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Table: TypeAlias = "tuple[tuple[str, ...], npt.NDArray[np.float64]]"
"""Variables, and float64[their numbers of values, in that order]; infinity = does not go together."""

WIDEST = 30_000
"""Entries of the largest table that is made."""


class TooWideError(Exception):
    """A table would have more than `WIDEST` entries. Caught by whoever knows another way."""


def least(tables: Sequence[Table], sizes: Mapping[str, int]) -> tuple[float, dict[str, int]]:
    """The least sum, and a value of each variable that attains it; infinite where nothing goes together.

    sizes: variable -> number of its values, of all variables in the tables.

    Raises
    ------
    TooWideError
        Before a table is made that is too large.

    >>> least([(("a",), np.array([1.0, 0.0])), (("a", "b"), np.array([[0.0, 5.0], [9.0, 2.0]]))], {"a": 2, "b": 2})
    (1.0, {'b': 0, 'a': 0})
    """
    known = list(tables)
    made: list[tuple[str, tuple[str, ...], npt.NDArray[Any]]] = []
    left = dict.fromkeys(name for scope, _ in tables for name in scope)
    while left:
        name = min(left, key=lambda n: _entries(_scope(n, known), sizes))
        full = _scope(name, known)
        check_width(full, sizes)
        total = np.zeros([sizes[n] for n in full])
        for scope, values in known:
            if name in scope:
                total = total + _aligned(scope, values, full)
        known = [table for table in known if name not in table[0]]
        known.append((full[1:], total.min(axis=0)))
        made.append((name, full[1:], total.argmin(axis=0)))
        del left[name]
    found: dict[str, int] = {}
    for name, scope, best in reversed(made):
        found[name] = int(best[tuple(found[n] for n in scope)])
    return math.fsum(float(values) for _, values in known), found


def check_width(scope: Sequence[str], sizes: Mapping[str, int]) -> None:
    """Raises TooWideError when a table of these variables would be too large."""
    if _entries(scope, sizes) > WIDEST:
        raise TooWideError


def _scope(name: str, tables: Sequence[Table]) -> tuple[str, ...]:
    """`name`, and whatever shares a table with it."""
    others = (n for scope, _ in tables if name in scope for n in scope)
    return tuple(dict.fromkeys((name, *others)))


def _entries(scope: Sequence[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[n] for n in scope)


def _aligned(scope: tuple[str, ...], values: npt.NDArray[np.float64], full: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """The table with the axes of `full`, of length 1 where it has none."""
    moved = values.transpose([scope.index(n) for n in full if n in scope])
    sizes = iter(moved.shape)
    return moved.reshape([next(sizes) if n in scope else 1 for n in full])
