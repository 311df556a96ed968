"""Values of options: the names that some take, and callbacks that read a text or refuse it in one line."""

from __future__ import annotations

import math
from collections.abc import Callable

import click

from tvm_mpq.errors import InvalidValueError

OBSERVERS = ("minmax", "mse", "output", "percentile")
"""Named here again, so that a wrong one is found before hours of work; a test compares with `calibrate`."""

ROUNDINGS = ("nearest", "gptq", "adaround")
"""As above."""

METHODS = ("ilp", "ohq", "greedy", "amed", "haq", "freebits", "random", "uniform")
"""As above."""

REGULARISERS = ("bitops", "latency")
"""As above."""


def one_of(names: tuple[str, ...]) -> Callable[[click.Context, click.Parameter, str], str]:
    """A callback of an option that takes these names alone."""

    def check(context: click.Context, parameter: click.Parameter, value: str) -> str:
        if value not in names:
            raise InvalidValueError(f"{parameter.name} must be one of {', '.join(names)} (got {value!r})")
        return value

    return check


def known_methods(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    found = tuple(word.strip() for word in value.split(","))
    for name in found:
        if name not in METHODS and found != ("all",):
            raise InvalidValueError(f"--methods takes all, or by commas {', '.join(METHODS)} (got {name!r})")
    return found


def known_shares(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share < math.inf for share in found):
        raise InvalidValueError(f"--budgets takes numbers above 0 by commas, shares of uniform 8 bit (got {value!r})")
    return found


def known_precision(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from tvm_mpq.schema import Precision

    return None if value is None else str(Precision.parse(value))


def known_precisions(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    from tvm_mpq.schema import Precision

    return None if value is None else tuple(str(Precision.parse(text.strip())) for text in value.split(","))


def known_shapes(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """Input name -> sizes, of texts such as `x=1x3x320x320`; a name may itself hold `=`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in value:
        name, _, sizes = text.rpartition("=")
        words = sizes.split("x")
        if not name or not all(word.isdecimal() and int(word) > 0 for word in words):
            raise InvalidValueError(f"--input-shape takes NAME=1x3x320x320, sizes of 1 or more (got {text!r})")
        if name in shapes:
            raise InvalidValueError(f"--input-shape gives input {name!r} twice; give it once")
        shapes[name] = tuple(int(word) for word in words)
    return shapes
