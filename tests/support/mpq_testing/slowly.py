"""Parameters of one property of which a few go through all code there is: the others run with `make test-slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

SLOW = pytest.mark.slow


def slow_but(values: Iterable[Any], *quick: Any, by_index: bool = False) -> list[Any]:
    """All values as parameters in their order, marked slow but for `quick`, which are values or places of values.

    A name that is no longer among the values would leave nothing quick without a word, so it is an error.
    """
    listed = list(values)
    chosen = [listed[i] for i in quick] if by_index else list(quick)
    lost = [value for value in chosen if value not in listed]
    assert not lost and chosen, f"not among the parameters: {lost}"
    return [value if value in chosen else pytest.param(value, marks=SLOW) for value in listed]
