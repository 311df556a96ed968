"""The activations by name: which there are, their numbers, and which of them are clamps."""

from __future__ import annotations

import math

from tvm_mpq.errors import InvalidValueError

_NUMBERS = {
    "none": 0,
    "relu": 0,
    "clip": 2,
    "hard_swish": 0,
    "hard_sigmoid": 0,
    "sigmoid": 0,
    "silu": 0,
    "gelu": 0,
    "gelu_tanh": 0,
    "tanh": 0,
    "leaky_relu": 1,
}
_KNOWN = "none, relu, clip:LO:HI, hard_swish, hard_sigmoid, sigmoid, silu, gelu, gelu_tanh, tanh, leaky_relu:ALPHA"


def parse(name: str) -> tuple[str, tuple[float, ...]]:
    """Split an activation into its base name and numbers.

    Raises
    ------
    InvalidValueError
        If the name is unknown or its numbers are missing, NaN or reversed.

    >>> parse("clip:0.0:6.0")
    ('clip', (0.0, 6.0))
    """
    base, *texts = name.split(":")
    try:
        numbers = tuple(float(t) for t in texts)
    except ValueError:
        numbers = (math.nan,)
    bad = _NUMBERS.get(base) != len(numbers) or any(math.isnan(v) for v in numbers)
    if bad or (base == "clip" and numbers[0] > numbers[1]) or (base == "leaky_relu" and not math.isfinite(numbers[0])):
        raise InvalidValueError(f"an activation is one of {_KNOWN} with LO <= HI (got {name!r})")
    return base, numbers


def is_clamp(name: str) -> bool:
    """Whether the activation is only a clamp (none, relu, clip), which needs no table."""
    return parse(name)[0] in ("none", "relu", "clip")


def clamp_bounds(name: str) -> tuple[float, float]:
    """The float bounds of a clamp; -inf and inf where there is none.

    Raises
    ------
    InvalidValueError
        If the activation is not a clamp.

    >>> clamp_bounds("relu")
    (0.0, inf)
    """
    base, numbers = parse(name)
    if base == "clip":
        return numbers[0], numbers[1]
    if base not in ("none", "relu"):
        raise InvalidValueError(f"only none, relu and clip:LO:HI have bounds (got {name!r})")
    return (0.0 if base == "relu" else -math.inf), math.inf
